"""What is tried first where a GPU is at hand: `python -m tests.benchmarks.gpu --first [--data npz:FILE]`.

At most ten minutes, without Ray and MLflow: a part that would begin later is named and left out. Packages are imported
where they are used, as in gpu_measures.
"""

import contextlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raybd.training import Checkpoint, TrainConfig, fit
from raybd.training.determinism import deterministic_algorithms
from raybd.types import Data
from tests.benchmarks.timing import Row, require

if TYPE_CHECKING:
    from tests.benchmarks.gpu import Bench

DEFENDED = ("vibe", "dbd", "abl", "scan")  # defences whose findings lie on the CPU
CUT: dict[str, dict[str, int]] = {"vibe": {"pretrain_epochs": 2, "iterations": 100}, "dbd": {"pretrain_epochs": 2}}
MEASURES, NOISE = ("mutual_information", "stealthiness", "smoothness", "stealth"), 0.4  # of sweeps/ib.py
CUT_MEASURES: dict[str, dict[str, int]] = {
    "mutual_information": {"samples": 32, "passes": 2, "classes": 1},
    "smoothness": {"draws": 2, "points": 8},
    "stealthiness": {"samples": 32},
}
FRACTION = 0.16  # of the card's memory: a sixth, as for trials packed at --gpus-per-trial 0.16
RATES = (0.01, 0.05)
GIB = 2**30


def defences(at: "Bench") -> list[Row]:
    """Seconds of two epochs on digits under each defence, artifacts and all; that they end is what is tried."""
    from raybd.data import load
    from raybd.defences import DEFENCES
    from raybd.trials.config import ModelConfig, TrialConfig

    data, rows = load("digits").to(at.device), list[Row]()
    if at.small:
        data = replace(data, train=data.train.take(torch.arange(300)), test=data.test.take(torch.arange(100)))
    for name in DEFENDED:
        defence = DEFENCES[name](**(CUT.get(name, {}) if at.small else {}))
        training = TrainConfig(epochs=2)
        config = TrialConfig(train=training, defence=defence, validation=0.2, model=ModelConfig(width=0.25))
        metrics, seconds = _trial(config, data)
        said = f"digits, 2 epochs, {name}: accuracy {metrics['accuracy/clean']:.2f}"
        rows.append(Row(f"{said}, auroc {metrics['defence/auroc']:.2f}", seconds, None, 1, "s"))
    return rows


def _trial(config: Any, data: Data) -> tuple[dict[str, float], float]:
    """The metrics and the seconds of a trial whose artifacts are saved."""
    from raybd.trials.artifacts import save_artifacts
    from raybd.trials.records import SweepFolder
    from raybd.trials.run import run_trial

    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        result = run_trial(config, data)
        trial = SweepFolder.of(folder, "first").trial(config.key)
        (trial.path / "figures").mkdir(parents=True)
        save_artifacts(trial, config, result)
    return result.metrics, time.perf_counter() - start


def memory(at: "Bench") -> list[Row]:
    """Peak memory of a trial of resnet18 with the measures of sweeps/ib.py, on the whole card and on a sixth of it."""
    rows = []
    for side in at.memory_sides:
        for fraction in (1.0, FRACTION) if at.device.type == "cuda" else (1.0,):
            name = f"resnet18, {side} px, measures, {fraction:g} of the memory"
            with _fraction(at, fraction):
                seconds, note = _measured(at, side)
            peak = torch.cuda.max_memory_allocated() / GIB if at.device.type == "cuda" else math.nan
            rows += [Row(f"{name}: peak{note}", peak, None, 1, "GiB"), Row(f"{name}", seconds, None, 1, "s")]
    return rows


def _measured(at: "Bench", side: int) -> tuple[float, str]:
    """Seconds of the trial, and a note where the memory did not do."""
    from raybd.metrics import METRICS
    from raybd.trials.config import ModelConfig, TrialConfig
    from raybd.trials.run import run_trial

    metrics = tuple(METRICS[name](**(CUT_MEASURES.get(name, {}) if at.small else {})) for name in MEASURES)
    model = ModelConfig(name="resnet18", width=at.sizes.width, noise=NOISE)
    training = replace(at.train_config, epochs=1, precision="auto")
    config = TrialConfig(train=training, model=model, metrics=metrics, probes=(1,), poison_rate=0.1)
    data, start = at.made(side), time.perf_counter()
    try:
        run_trial(config, data)
    except torch.OutOfMemoryError:
        return time.perf_counter() - start, " (out of memory)"
    return time.perf_counter() - start, ""


@contextlib.contextmanager
def _fraction(at: "Bench", fraction: float) -> Iterator[None]:
    """Inside, no more than this fraction of the card's memory, and the peak counted from 0."""
    if at.device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def repeated(at: "Bench") -> list[Row]:
    """Whether the same training gives the same bits: twice, and resumed after its first epoch; without and with
    deterministic algorithms, and what these cost."""
    rows = []
    for wanted in (False, True):
        how = "deterministic" if wanted else "as usual"
        with deterministic_algorithms(wanted):
            start = time.perf_counter()
            first = _weights(at)
            seconds = time.perf_counter() - start
            others = {"twice": _weights(at), "resumed": _weights(at, resumed=True)}
        rows.append(Row(f"{at.sizes.epochs} epochs, {how}", seconds, None, 1, "s"))
        for name, other in others.items():
            apart = float((first - other).abs().max())
            said = "the same bits" if torch.equal(first, other) else "other bits"
            rows.append(Row(f"... {name}: {said}; weights apart", apart, None, 1, ""))
            require(not wanted or torch.equal(first, other), f"weights of a deterministic training, {name}")
    return rows


def _weights(at: "Bench", resumed: bool = False) -> Tensor:
    """The weights (D,) after a training, or after one that went on from the checkpoint of its first epoch."""
    images, model = at.images(at.repeat_images), at.network()
    with TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", every=0) if resumed else None
        if resumed:
            stopped = fit(at.network(), images, at.train_config, 0, checkpoint)
            next(stopped)
            next(stopped)  # saves the first epoch, whose report the first call gave
            stopped.close()
        for _ in fit(model, images, at.train_config, 0, checkpoint):
            pass
    return torch.cat([part.detach().flatten().cpu() for part in model.parameters()])


def shared_card(at: "Bench") -> list[Row]:
    """Packed trials without NVIDIA's multi-process service, and with it where there is one to start."""
    from tests.benchmarks.gpu import packed

    rows = packed(at)
    control = shutil.which("nvidia-cuda-mps-control")
    if at.device.type != "cuda" or control is None:
        print("with MPS is left out: no GPU, or no nvidia-cuda-mps-control", flush=True)
        return rows
    with _mps(control):
        return [*rows, *(replace(row, name=f"{row.name}, with MPS") for row in packed(at))]


@contextlib.contextmanager
def _mps(control: str) -> Iterator[None]:
    """Inside, a multi-process service of this user's own, which new processes join."""
    with TemporaryDirectory() as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(own)
        subprocess.run([control, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, check=False)
            for name in own:
                os.environ.pop(name)


def badnets(at: "Bench") -> list[Row]:
    """Attack success of BadNets at 1 and 5 % on the images of --data."""
    if not at.data:
        print("badnets is left out: no --data npz:FILE", flush=True)
        return []
    from raybd.data import load
    from raybd.trials.config import ModelConfig, TrialConfig

    data, rows = load(at.data).to(at.device), []
    training = replace(at.train_config, epochs=at.badnets_epochs)
    for rate in RATES:
        model = ModelConfig(name="preact_resnet18", width=at.sizes.width)
        config = TrialConfig(train=training, model=model, poison_rate=rate, probes=(training.epochs,))
        metrics, seconds = _trial(config, data)
        name = f"BadNets at {rate:.0%}, {training.epochs} epochs"
        rows += [
            Row(f"{name}: clean accuracy", 100 * metrics["accuracy/clean"], None, 1, "%"),
            Row(f"{name}: attack success", 100 * metrics["attack_success"], None, 1, "%"),
            Row(f"{name}", seconds, None, 1, "s"),
        ]
    return rows


def ranks(at: "Bench") -> list[Row]:
    """One all_reduce by nccl (gloo on CPUs) of as many ranks as there are GPUs; on GPUs, batch norm over all."""
    count = torch.cuda.device_count() if at.device.type == "cuda" else 2
    context = torch.multiprocessing.get_context("spawn")
    with TemporaryDirectory() as folder:
        told = context.Queue()
        store = f"file://{folder}/store"
        members = [context.Process(target=_rank, args=(k, count, at.device.type, store, told)) for k in range(count)]
        for member in members:
            member.start()
        found = [told.get(timeout=120) for _ in members]
        for member in members:
            member.join()
    backend = found[0][2]
    require(all(total == count for _, total, _, _ in found), f"the sum of {count} ranks by {backend}")
    rows = [Row(f"all_reduce of {count} ranks by {backend}", max(seconds for seconds, *_ in found), None, 1, "s")]
    apart = max(distance for *_, distance in found)
    return [*rows, *([Row("SyncBatchNorm from batch norm of all", apart, None, 1, "")] * (not math.isnan(apart)))]


def _rank(rank: int, count: int, device: str, store: str, told: "torch.multiprocessing.Queue") -> None:  # type: ignore[name-defined]
    backend = "nccl" if device == "cuda" else "gloo"
    place = torch.device(device, rank if device == "cuda" else None)
    if device == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=count)
    try:
        start, one = time.perf_counter(), torch.ones((), device=place)
        dist.all_reduce(one)
        total = float(one)
        told.put((time.perf_counter() - start, total, backend, _synchronised(rank, count, place)))
    finally:
        dist.destroy_process_group()


def _synchronised(rank: int, count: int, place: torch.device) -> float:
    """The largest difference of SyncBatchNorm on this rank's share from batch norm of the whole; nan on a CPU."""
    if place.type == "cpu":
        return math.nan
    x = torch.randn(8 * count, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(place)
    own = slice(8 * rank, 8 * (rank + 1))
    together = nn.SyncBatchNorm(4).to(place)(x[own])
    return float((together - nn.BatchNorm2d(4).to(place)(x)[own]).abs().max())


FIRST: dict[str, Callable[["Bench"], list[Row]]] = {
    "defences": defences,
    "ranks": ranks,
    "repeated": repeated,
    "memory": memory,
    "shared_card": shared_card,
    "badnets": badnets,
}
