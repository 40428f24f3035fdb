"""The GPU path by itself, with no Ray and no MLflow: `python -m tests.benchmarks.gpu [--first] [--device cpu --small]`.

Pixels and labels are random: what is timed does not depend on them. Everything is checked against float64 on the CPU.
"""

import argparse
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; trials side by side share the cores

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from raybd.models import Classifier, build_model
from raybd.training import TrainConfig, autocast, fit, prepare
from raybd.types import Data, Images
from tests.benchmarks.gpu_first import FIRST
from tests.benchmarks.gpu_measures import e_step, information, smoothing
from tests.benchmarks.timing import Row, figure, markdown, require

CLASSES, SEED = 10, 0
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
TRIAL_EPOCHS = 100  # as a trial of BackdoorBench
FEW = 32  # images of the check
CLOSE: dict[Literal["fp32", "bf16"], tuple[float, float]] = {
    "fp32": (1e-3, 0.999),
    "bf16": (0.02, 0.9),
}  # of losses, of gradients; GPUs take TF32 for fp32 convolutions


@dataclass(frozen=True)
class Sizes:
    """How much is done of everything; the defaults are those of CIFAR-10 and ImageNet."""

    images: int = 50_000
    side: int = 32
    width: float = 1.0
    batch: int = 128
    epochs: int = 3  # of which the first does not count
    packs: tuple[int, ...] = (1, 2, 4)  # trials at once
    matrix: int = 8192  # side of the product that shows the peak
    transports: tuple[tuple[int, int], ...] = ((50_000, 1000), (1_281_167, 1000))
    points: int = 200  # of smoothing
    draws: int = 256
    group: int = 64  # images of each of the six groups of a probe


SMALL = Sizes(48, 8, 0.125, 16, 2, (1, 2), 64, ((300, 10), (200, 100)), 4, 32, 32)


@dataclass(frozen=True)
class Bench:
    """Where, and how much."""

    device: torch.device
    sizes: Sizes
    data: str = ""  # images of --data, as npz:FILE

    @property
    def small(self) -> bool:
        """Whether all is as small as for a test."""
        return self.sizes == SMALL

    @property
    def memory_sides(self) -> tuple[int, ...]:
        """Sides of the images with which memory is measured."""
        return (16,) if self.small else (32, 64)

    @property
    def repeat_images(self) -> int:
        """Images of the trainings whose bits are compared."""
        return min(self.sizes.images, 10_000)

    @property
    def badnets_epochs(self) -> int:
        """Epochs of BadNets on real images."""
        return 1 if self.small else 10

    @property
    def train_config(self) -> TrainConfig:
        """The recipe of CIFAR-10; bf16 on whatever device, for it is the GPU's path that is tried."""
        epochs = self.sizes.epochs
        return TrainConfig(epochs=epochs, batch_size=self.sizes.batch, crop=4, flip=True, precision="bf16")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return (3, self.sizes.side, self.sizes.side)

    def network(self, noise: float = 0.0, name: str = "preact_resnet18") -> Classifier:
        """A network with the weights of the seed."""
        torch.manual_seed(SEED)
        width = self.sizes.width
        model = build_model(name, self.shape, CLASSES, MEAN, STD, width=width, noise=noise)
        assert isinstance(model, Classifier)
        return model.to(self.device)

    def images(self, count: int) -> Images:
        """Random ones, made on the device."""
        rng = torch.Generator(self.device).manual_seed(SEED)
        x = torch.randint(0, 256, (count, *self.shape), generator=rng, dtype=torch.uint8, device=self.device)
        return Images(x, torch.arange(count, device=self.device) % CLASSES)

    def made(self, side: int) -> Data:
        """A set of random images of `side` pixels, as many for training as for testing."""
        half = replace(self, sizes=replace(self.sizes, side=side)).images(400 if self.small else 2000)
        return Data("made", half, half, tuple(map(str, range(CLASSES))), f"made{side}", MEAN, STD)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, task: Callable[[], object], repetitions: int = 3) -> list[float]:
        """Of every call of `task`, by the clock; a first one does not count."""
        taken = []
        for _ in range(repetitions + 1):
            self.wait()
            start = time.perf_counter()
            task()
            self.wait()
            taken.append(time.perf_counter() - start)
        return taken[1:]


def training(at: Bench) -> list[Row]:
    """Seconds of an epoch of PreActResNet18, its share of the matrix peak, and how often the host waits in it."""
    for precision, (far, least) in CLOSE.items():
        loss, angle = gradients_apart(at, precision)
        said = f"{precision}: loss {loss:.1e} from float64's, cosine of the gradients {angle:.5f}"
        require(loss < far and angle > least, said)
    return [*_epochs(at, "preact_resnet18", "PreActResNet18"), *_waits(at, at.images(at.sizes.images))]


def networks(at: Bench) -> list[Row]:
    """Seconds of an epoch of PreActResNet18 and of small_cnn, and their shares of the matrix peak."""
    return [*training(at), *_epochs(at, "small_cnn", "small_cnn")]


def _epochs(at: Bench, network: str, title: str) -> list[Row]:
    model, images, taken = at.network(name=network), at.images(at.sizes.images), []
    start = time.perf_counter()
    for _ in fit(model, images, at.train_config, SEED):
        at.wait()
        taken.append(time.perf_counter() - start)
    epochs = [b - a for a, b in zip(taken, taken[1:], strict=False)]
    peak, work = matrix_peak(at), 3 * forward_work(at, network) * len(images)  # backward is twice forward
    name = f"epoch of {title}, {len(images):,} x {at.sizes.side}x{at.sizes.side}x3, batch {at.sizes.batch}"
    middle = statistics.median(epochs)
    return [
        Row(name, middle, None, len(epochs), "s"),
        Row(f"... of the bf16 peak of {peak / 1e12:.3g} TFLOP/s", 100 * work / middle / peak, None, len(epochs), "%"),
    ]


def gradients_apart(at: Bench, precision: Literal["fp32", "bf16"]) -> tuple[float, float]:
    """A first step against float64 on the CPU: relative distance of the losses, cosine between the gradients."""
    few, train_config = at.images(FEW), replace(at.train_config, precision=precision)
    model = at.network().to(memory_format=torch.channels_last).train()
    precise = deepcopy(model).cpu().double()
    with autocast(train_config, at.device):
        loss = F.cross_entropy(model(prepare(few.x, train_config)), few.y)
    expected = F.cross_entropy(precise(few.x.cpu().double() / 255), few.y.cpu())
    loss.backward()
    expected.backward()
    apart = abs(loss.item() - expected.item()) / abs(expected.item())
    return apart, float(F.cosine_similarity(_gradient(model), _gradient(precise), 0))


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().cpu().double() for p in model.parameters() if p.grad is not None])


def forward_work(at: Bench, network: str = "preact_resnet18") -> int:
    """Floating-point operations of one image on its way through the network."""
    model = at.network(name=network).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *at.shape, device=at.device))
    return int(counter.get_total_flops())


def matrix_peak(at: Bench) -> float:
    """Operations a second of a large product in bf16: what this device does at best."""
    side = at.sizes.matrix
    a, b = (torch.randn(side, side, device=at.device, dtype=torch.bfloat16) for _ in "ab")
    exact = a[:1].cpu().double() @ b.cpu().double()
    close = torch.allclose((a @ b)[:1].cpu().double(), exact, rtol=0.02, atol=0.02 * side**0.5)
    require(close, "a product of matrices")
    return 2 * side**3 / min(at.seconds(lambda: a @ b, 10))


def _waits(at: Bench, images: Images) -> list[Row]:
    """How often the host waits in an epoch; its loss, which is read at its end, is one."""
    if at.device.type != "cuda":
        return []
    epochs = fit(at.network(), images, at.train_config, SEED)
    next(epochs)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        next(epochs)
        torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(warning.message) for warning in seen)
    return [Row(f"waits for the device in {-(-len(images) // at.sizes.batch)} steps", waits, None, 1, "")]


def packed(at: Bench) -> list[Row]:
    """Trainings an hour with so many at once on one device, each in its own process."""
    rows, alone = [], None
    for count in at.sizes.packs:
        seconds, losses = _together(at, count)
        alone = losses[0] if alone is None else alone
        require(all(abs(loss - alone) < 0.02 * alone for loss in losses), f"{count} at once: losses {losses}")
        each = seconds / (at.sizes.epochs - 1) * TRIAL_EPOCHS
        rows.append(Row(f"trials of {TRIAL_EPOCHS} epochs, {count} at once", count * 3600 / each, None, 1, "an hour"))
    return rows


def _together(at: Bench, count: int) -> tuple[float, list[float]]:
    """Seconds from when all `count` have done an epoch until the last has done the others; their last losses."""
    context = torch.multiprocessing.get_context("forkserver")  # one imports PyTorch for all, and touches no device
    context.set_forkserver_preload(["tests.benchmarks.gpu"])
    ready, told = context.Barrier(count), context.Queue()
    members = [context.Process(target=_member, args=(at, ready, told)) for _ in range(count)]
    for member in members:
        member.start()
    told_by_all = [told.get(timeout=1800) for _ in members]
    for member in members:
        member.join()
    return max(seconds for seconds, _ in told_by_all), [loss for _, loss in told_by_all]


def _member(at: Bench, ready: "torch.multiprocessing.Barrier", told: "torch.multiprocessing.Queue") -> None:  # type: ignore[name-defined]
    torch.set_num_threads(1)
    epochs = fit(at.network(), at.images(at.sizes.images), at.train_config, SEED)
    next(epochs)
    at.wait()
    ready.wait()
    start, loss = time.perf_counter(), 0.0
    for epoch in epochs:
        loss = epoch.loss
    at.wait()
    told.put((time.perf_counter() - start, loss))


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "training": training,
    "packed": packed,
    "e_step": e_step,
    "smoothing": smoothing,
    "information": information,
}


ALL = PARTS | {"networks": networks} | FIRST
FIRST_MINUTES = 10.0


def measure(at: Bench, names: list[str], minutes: float = math.inf) -> list[Row]:
    """The rows of the parts called `names`; one whose packages are not here is named and left out, and one that would
    begin later than three quarters of `minutes`."""
    rows, ends = list[Row](), time.monotonic() + 60 * minutes * 0.75
    for name in names:
        if time.monotonic() > ends:
            print(f"{name} is left out: {minutes:g} minutes are nearly over", flush=True)
            continue
        print(f"{name} ...", flush=True)
        try:
            found = ALL[name](at)
            for row in found:  # at once: a later part may fail
                print(f"  {row.name}: {figure(row.ours)} {row.unit}", flush=True)
            rows += found
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error}", flush=True)
    return rows


def main(args: list[str] | None = None) -> None:
    """Measure, and print what was measured on what."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a test")
    parser.add_argument("--first", action="store_true", help="what is tried first on a new machine, in ten minutes")
    parser.add_argument("--data", default="", help="real images for --first, as npz:FILE")
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME")
    asked = parser.parse_args(args)
    at = Bench(torch.device(asked.device), SMALL if asked.small else Sizes(), asked.data)
    usual = ["networks", *FIRST] if asked.first else list(PARTS)
    rows = measure(at, asked.only or usual, FIRST_MINUTES if asked.first else math.inf)
    name = torch.cuda.get_device_name() if at.device.type == "cuda" else platform.machine()
    print(f"\n{name}, python {platform.python_version()}, torch {torch.__version__}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
