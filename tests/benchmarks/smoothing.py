"""Votes under noise: against the same network's plain inference, its training, and a loop over the points."""

import sys
import time
from functools import partial

import torch
from torch import Tensor, nn

from raybd.metrics.smoothing.noise import block_size, noise
from raybd.metrics.smoothing.sampling_plan import PLANS
from raybd.metrics.smoothing.votes import VoteCounts, count_votes
from raybd.models import build_model
from raybd.seeds import stream
from raybd.training import TrainConfig, fit, predict
from raybd.types import Images
from tests.benchmarks.timing import PLAIN, REPETITIONS, Row, apart, interleave, rate, require

SHAPE, CLASSES, SEED = (1, 28, 28), 10, 0
POINTS, SIGMA, DRAWS = 200, 0.25, 64
ALONE = 5  # times that a process of its own counts
LOOPED, LOOP_DRAWS = 4, 1000  # points of the loop, and draws of each: one batch, as in that code's own scripts
TRAINED, MNIST = 3000, 60_000  # images
HOW = TrainConfig(epochs=1, batch_size=128)
Array = list[list[int]]


def smoothing() -> list[Row]:
    """Images/CPU-s of counting against inference and against a loop; CPU-s of the cheap plan against an epoch."""
    model, images = _network(), _images()
    return [_inference(model, images), _loop(images), _apart(), _plan(model, images)]


def _inference(model: nn.Module, images: Tensor) -> Row:
    """Noise, votes and all, against `predict` on as many images."""
    count = POINTS * DRAWS
    plain = torch.randint(0, 256, (count, *SHAPE), generator=stream(SEED, "plain"), dtype=torch.uint8)
    sides = {"ours": partial(_ours, model, images, DRAWS), "plain": partial(predict, model, plain, HOW)}
    seconds = interleave(sides)
    return rate("smoothing 28x28x1, plain: inference", seconds["ours"], seconds["plain"], (count, count))


def _loop(images: Tensor) -> Row:
    """The same votes, a point at a time in the network's own memory format, counted on the host vote by vote."""
    ours, loop = _looped(images)
    require(ours().votes[0, 0].tolist() == loop(), "votes of whole batches and of a loop over the points")
    seconds = interleave({"ours": ours, "loop": loop})
    return rate("smoothing 28x28x1, plain: loop", seconds["ours"], seconds["loop"], 2 * (LOOPED * LOOP_DRAWS,))


def _looped(images: Tensor) -> tuple[partial[VoteCounts], partial[Array]]:
    model, few = _network(torch.contiguous_format), images[:LOOPED]
    return partial(_ours, model, few, LOOP_DRAWS), partial(_point_by_point, model, few)


def _apart() -> Row:
    """The same as people run it: each side a process, which gets from the system what memory it needs."""
    seconds = apart("tests.benchmarks.smoothing", {side: (side,) for side in ("ours", PLAIN)})
    name = "smoothing 28x28x1, plain: loop, a process each"
    return rate(name, seconds["ours"], seconds[PLAIN], 2 * (ALONE * LOOPED * LOOP_DRAWS,))


def alone(side: str) -> float:
    """CPU seconds of one side of the loop, after a first time that does not count; see `_apart`."""
    torch.set_num_threads(1)
    ours, loop = _looped(_images())
    work = loop if side == PLAIN else ours
    work()
    start = time.process_time()
    for _ in range(ALONE):
        work()
    return time.process_time() - start


def _plan(model: nn.Module, images: Tensor) -> Row:
    """CPU-s of the cheap plan against one epoch over MNIST's 60,000 images, from a 20th of one."""
    plan = PLANS["cheap"]
    both = torch.stack([images, (images + 0.3).clamp_max(1)])
    train = Images(
        torch.randint(0, 256, (TRAINED, *SHAPE), generator=stream(SEED, "train"), dtype=torch.uint8),
        torch.arange(TRAINED) % CLASSES,
    )

    def epoch() -> None:
        list(fit(_network(), train, HOW, SEED))

    seconds = interleave(
        {"ours": lambda: count_votes(model, both, range(POINTS), plan.sigmas, plan.looks, SEED), "epoch": epoch}
    )
    ours, whole = sorted(seconds["ours"]), sorted(s * MNIST / TRAINED for s in seconds["epoch"])
    middle = REPETITIONS // 2
    ratios = [a / b for a, b in zip(ours, whole, strict=True)]
    return Row(
        "cheap plan, plain: one epoch of MNIST",
        ours[middle],
        whole[middle],
        REPETITIONS,
        "CPU-s",
        (min(ratios), max(ratios)),
    )


def _ours(model: nn.Module, images: Tensor, draws: int) -> VoteCounts:
    return count_votes(model, images[None], range(len(images)), [SIGMA], [draws], SEED)


@torch.no_grad()
def _point_by_point(model: nn.Module, images: Tensor) -> Array:
    """Copy the image, add noise, predict, and count in Python, as implementations of randomised smoothing do."""
    rows = []
    for point, image in enumerate(images):
        counts = [0] * CLASSES
        blocks = -(-LOOP_DRAWS // block_size(SHAPE))
        z = torch.cat([noise(SEED, [point], block, SHAPE, torch.device("cpu"))[0] for block in range(blocks)])
        batch = image.repeat(LOOP_DRAWS, 1, 1, 1) + SIGMA * z[:LOOP_DRAWS]
        for label in model(batch).argmax(1).numpy():
            counts[label] += 1
        rows.append(counts)
    return rows


def _network(layout: torch.memory_format = torch.channels_last) -> nn.Module:
    torch.manual_seed(SEED)
    return build_model("small_cnn", SHAPE, CLASSES, (0.5,), (0.29,)).to(memory_format=layout).eval()


def _images() -> Tensor:
    return torch.rand(POINTS, *SHAPE, generator=stream(SEED, "images"))


if __name__ == "__main__":
    print(alone(*sys.argv[1:]))
