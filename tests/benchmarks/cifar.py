"""Real images on the GPU, with no Ray and no MLflow: `python -m tests.benchmarks.cifar --data npz:FILE [--out FILE]`.

BadNets and Blended with BackdoorBench's recipe, several trials at once; rate 0 is the control, each trigger on a clean
network. Then one trial with all measures of `sweeps/ib.py`, alone. FILE keeps what has ended, and beside it lie
checkpoints: the same command goes on where a run was cut off.
"""

import json
import math
import os
import time
from argparse import SUPPRESS, ArgumentParser
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import product
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; trials side by side share the cores

import torch

from raybd.attacks import ATTACKS
from raybd.data import load
from raybd.metrics import METRICS
from raybd.training import Checkpoint, TrainConfig
from raybd.trials.base import TrialResult
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data
from tests.benchmarks.timing import require

MODEL = ModelConfig(name="preact_resnet18")
RECIPE = TrainConfig(learning_rate=0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine", crop=4, flip=True)
TRIED = ("badnets", "blended")
MEASURES, NOISE = (
    ("mutual_information", "stealthiness", "smoothness", "stealth"),
    0.4,
)  # of the paper preset of sweeps/ib.py, without tyro
FLIPPED = 2  # of a trial's 16 examples, bf16 against float64: those on the edge between two classes
SHARES = ("accuracy/clean", "attack_success", "accuracy/robust")
HEAD = ["attack", "poison rate", "seeds", "clean accuracy, %", "ASR, %", "RA, %", "seconds a trial", "at once"]


@dataclass(frozen=True)
class Bench:
    """Where, on what, and how much; the defaults are BackdoorBench's for CIFAR-10."""

    device: str
    data: str
    at_once: int
    out: Path
    epochs: int = 100
    seeds: int = 2
    rates: tuple[float, ...] = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1)
    batch: int = 128
    width: float = 1.0

    def config(self, attack: str, rate: float, seed: int) -> TrialConfig:
        """The trial of one attack."""
        model, train_config = (
            replace(MODEL, width=self.width),
            replace(RECIPE, epochs=self.epochs, batch_size=self.batch),
        )
        fingerprint = on_device(self.data, "cpu").fingerprint
        common = TrialConfig(data=self.data, fingerprint=fingerprint, model=model, train=train_config)
        return replace(common, attack=ATTACKS[attack](), poison_rate=rate, seed=seed)

    def measured(self) -> TrialConfig:
        """The trial with all measures, at the highest rate: no group of images is short."""
        config = self.config(TRIED[0], max(self.rates), 0)
        return replace(config, model=replace(config.model, noise=NOISE), metrics=tuple(METRICS[n]() for n in MEASURES))


@dataclass(frozen=True)
class Done:
    """A trial that has ended."""

    key: str
    label: str
    shares: list[float]  # in the order of SHARES
    seconds: float  # nan: not in one go
    at_once: int
    before: float  # seconds of the clean twin


@cache
def on_device(data: str, device: str) -> Data:
    """The data set, moved there once by each process."""
    return load(data).to(device)


def trial(config: TrialConfig, at: Bench) -> Done:
    """Train and measure one network, from the checkpoint of a run that was cut off where there is one.

    One with all measures is trained in one go, and after its clean twin: a sweep trains that once for many trials.
    """
    data, often = on_device(at.data, at.device), math.inf if config.metrics else 60.0
    checkpoint = Checkpoint(at.out.with_suffix(".parts") / f"{config.key}.pt", often)
    resumed, begin = checkpoint.path.exists(), time.perf_counter()
    with TemporaryDirectory() as folder:
        cache_folder = Path(folder) if config.metrics else None
        if cache_folder:
            run_trial(replace(config, poison_rate=0.0, metrics=()), data, shared=cache_folder)
        start = time.perf_counter()
        result = run_trial(config, data, checkpoint=checkpoint, shared=cache_folder)
        seconds = math.nan if resumed else time.perf_counter() - start
    checkpoint.path.unlink(missing_ok=True)
    return Done(config.key, config.label, checked(config, data, result), seconds, at.at_once, start - begin)


def checked(config: TrialConfig, data: Data, result: TrialResult) -> list[float]:
    """The shares, which stand if all is poisoned as asked and float64 on the CPU predicts the same."""
    count, asked = result.manifest["poison"], config.poison_rate * len(data.train)
    require(abs(count - asked) <= 0.5, f"{count} images are poisoned, {asked:g} were asked for")
    if not config.model.noise:  # two draws of which may well differ
        shown = result.examples
        x = torch.cat([shown.clean.x, shown.triggered.x]).cpu().double() / 255
        names = [*shown.clean_prediction, *shown.triggered_prediction]
        seen = torch.tensor([data.classes.index(name) for name in names])
        flipped = int((deepcopy(result.model).cpu().double()(x).argmax(1) != seen).sum())
        require(flipped <= FLIPPED, f"{flipped} of {len(x)} predictions are others in float64")
    return [result.metrics[name] for name in SHARES]


def finish(configs: list[TrialConfig], at: Bench) -> int:
    """Add to the file `at.out` each trial that it has not yet; how many failed."""
    known, failed = read(at.out), 0
    context = get_context("forkserver")  # one imports PyTorch for all, and touches no device
    context.set_forkserver_preload(["tests.benchmarks.cifar"])
    with ProcessPoolExecutor(at.at_once, context, _begin) as pool:
        running = {pool.submit(trial, config, at): config for config in configs if config.key not in known}
        for future in as_completed(running):
            if error := future.exception():
                failed += 1
                print(f"{running[future].label} failed: {type(error).__name__}: {error}", flush=True)
            else:
                one = future.result()
                shares = "clean {:.2%}, ASR {:.2%}, RA {:.2%}".format(*one.shares)
                print(f"{one.label}: {shares}, {one.seconds:.1f} s", flush=True)
                with at.out.open("a") as file:
                    file.write(json.dumps(asdict(one)) + "\n")
    return failed


def _begin() -> None:
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()  # a run that is cut off leaves nobody on the device


def _end_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL and even while a GPU waits for a message."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def read(out: Path) -> dict[str, Done]:
    """The trials in the file `out`, by their keys."""
    return {one.key: one for one in (Done(**json.loads(line)) for line in out.read_text().splitlines())}


def table(at: Bench) -> str:
    """Markdown: a row for each attack and rate, with means over seeds [lowest to highest]."""
    rows, known = [HEAD, ["---"] * len(HEAD)], read(at.out)
    for attack, rate in product(TRIED, at.rates):
        seeds = [known[key] for seed in range(at.seeds) if (key := at.config(attack, rate, seed).key) in known]
        columns = [[100 * one.shares[i] for one in seeds] for i in range(len(SHARES))]
        columns.append([one.seconds for one in seeds if not math.isnan(one.seconds)])
        at_once = ", ".join(str(n) for n in sorted({one.at_once for one in seeds}))
        rows.append([attack, f"{rate:.1%}", str(len(seeds)), *map(spread, columns), at_once])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: list[float]) -> str:
    """Mean [lowest to highest]; a dash for none."""
    return f"{sum(values) / len(values):.2f} [{min(values):.2f} to {max(values):.2f}]" if values else "-"


def measure(at: Bench) -> int:
    """Train what is left to train and print what was measured on what; how many trials failed."""
    at.out.parent.mkdir(parents=True, exist_ok=True)
    at.out.touch()
    failed = finish([at.config(a, rate, s) for s, rate, a in product(range(at.seeds), at.rates, TRIED)], at)
    print(f"\n{table(at)}\n\nalone:", flush=True)
    failed += finish([at.measured()], replace(at, at_once=1))
    if one := read(at.out).get(at.measured().key):
        print(f"with {', '.join(MEASURES)}: {one.seconds:.1f} s (target: at most 75 s on an H200)")
        print(f"its clean twin, before: {one.before:.1f} s")
    print(torch.cuda.get_device_name() if at.device.startswith("cuda") else at.device, "torch", torch.__version__)
    return failed


def main(args: list[str] | None = None) -> int:
    """Run it; 1 if a trial failed."""
    small = partial(Bench, epochs=2, rates=(0.0, 0.001, 0.1), batch=16, width=0.125)
    parser = ArgumentParser(prog="tests.benchmarks.cifar", description=__doc__, argument_default=SUPPRESS)
    parser.add_argument("--data", required=True, help="npz:FILE, or another name that a sweep takes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="trials at once on the device")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--out", type=Path, metavar="FILE", help="one JSON line a trial; those in it are not run again")
    parser.add_argument("--small", action="store_const", const=small, default=Bench, help="sizes for a test")
    asked = vars(parser.parse_args(args))
    bench = asked.pop("small")
    with TemporaryDirectory() as folder:
        return int(measure(bench(**{"out": Path(folder) / "trials.jsonl"} | asked)) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
