"""The points that smoothness is evaluated on, and their variants: with the trigger, with control patterns."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.smoothing.adversarial import pgd, universal
from raybd.metrics.smoothing.controls import at_distance, is_patch, moved_patch, random_patch, trigger_mask
from raybd.metrics.smoothing.noise import noise
from raybd.metrics.smoothing.sampling_plan import TWIN
from raybd.metrics.subset import random_subset
from raybd.seeds import derive, stream
from raybd.types import MetricContext

log = logging.getLogger(__name__)
UNIVERSAL_IMAGES = 512  # training images on which a universal perturbation is optimised


@dataclass(frozen=True)
class EvaluationPoints:
    """N test images that smoothness is evaluated on, clean and triggered, with the network and its clean twin."""

    model: nn.Module
    twin: nn.Module | None
    clean: Tensor  # (N, C, H, W) float32 in [0, 1]
    triggered: Tensor
    wanted: Tensor  # (N,) int64: the class that the attacker wants
    ids: tuple[int, ...]  # rows of the triggered test images: they name the points' noise
    train: Tensor  # (M, C, H, W) training images, on which a universal perturbation is optimised
    train_wanted: Tensor  # (M,) the class that the attacker would want of them
    seed: int
    heartbeat: Callable[[], None] = lambda: None

    @property
    def lengths(self) -> Tensor:
        """(N,) L2 of the trigger on each image."""
        lengths: Tensor = (self.triggered - self.clean).flatten(1).norm(dim=1)
        return lengths


def evaluation_points(context: MetricContext, points: int) -> EvaluationPoints:
    """At most `points` of the triggered images that count for the attack, successful or not, by the trial's seed.

    The points of a smaller number are among those of a larger.
    """
    rows = _subset(context.measured, points, context.seed, "points")
    lookup = torch.arange(len(context.data.classes), device=context.triggered.y.device)
    test = context.data.test
    lookup[test.y.repeat(len(context.members))] = context.triggered.y
    train = context.data.train
    others = _subset(lookup[train.y] != train.y, UNIVERSAL_IMAGES, context.seed, "others")
    return EvaluationPoints(
        model=context.model,
        twin=context.twin,
        clean=pixels(test.x[rows % len(test)]),
        triggered=pixels(context.triggered.x[rows]),
        wanted=context.triggered.y[rows],
        ids=tuple(rows.tolist()),
        train=pixels(train.x[others]),
        train_wanted=lookup[train.y[others]],
        seed=context.seed,
        heartbeat=context.heartbeat,
    )


def target_class(context: MetricContext, points: int) -> tuple[Tensor, tuple[int, ...]]:
    """Clean test images of the class that the attacker wants of them, and their ids; maybe none."""
    test = context.data.test
    rows = _subset(test.y == context.triggered.y[: len(test)], points, context.seed, "target_class")
    return pixels(test.x[rows]), tuple(rows.tolist())


def pixels(x: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return x.float() / 255


def variants(points: EvaluationPoints, names: Sequence[str]) -> dict[str, Tensor]:
    """The images (N, C, H, W) of each of `names`; one that does not exist for this trigger is left out, and logged."""
    made = {name: VARIANT_IMAGES[name](points) for name in names}
    if absent := [name for name, images in made.items() if images is None]:
        log.info("this trigger has no %s", ", ".join(absent))
    return {name: images for name, images in made.items() if images is not None}


def network(points: EvaluationPoints, name: str) -> nn.Module:
    """The network that variant `name` is evaluated on.

    Raises:
        InputError: it is the clean twin, and the trial has none.
    """
    if name not in TWIN:
        return points.model
    if points.twin is None:
        raise InputError(f"smoothness of {name} needs the clean twin, and this trial came without it")
    return points.twin


def _subset(mask: Tensor, size: int, seed: int, name: str) -> Tensor:
    return random_subset(mask.nonzero().flatten(), size, seed, "smoothness", name)


def _random_patch(points: EvaluationPoints) -> Tensor | None:
    mask = trigger_mask(points.clean, points.triggered)
    return random_patch(points.clean, mask, stream(points.seed, "smoothness", "patch")) if is_patch(mask) else None


def _moved_patch(points: EvaluationPoints) -> Tensor | None:
    mask = trigger_mask(points.clean, points.triggered)
    if not is_patch(mask):
        return None
    return moved_patch(points.clean, points.triggered, mask, stream(points.seed, "smoothness", "place"))


def _random_direction(points: EvaluationPoints) -> Tensor:
    # Streams of their own: they must not be the noise that is then drawn around the points.
    seed, device = derive(points.seed, "smoothness", "direction"), points.clean.device
    directions = noise(seed, points.ids, 0, points.clean.shape[1:], device)[:, 0]
    return at_distance(points.clean, directions, points.lengths)


def _universal(points: EvaluationPoints, name: str) -> Tensor:
    length = float(points.lengths.mean())
    change = universal(network(points, name), points.train, points.train_wanted, length)
    return at_distance(points.clean, change, points.lengths)


VARIANT_IMAGES: dict[str, Callable[[EvaluationPoints], Tensor | None]] = {
    "clean": lambda points: points.clean,
    "triggered": lambda points: points.triggered,
    "random_patch": _random_patch,
    "moved_patch": _moved_patch,
    "random_direction": _random_direction,
    "universal": lambda points: _universal(points, "universal"),
    "pgd": lambda points: pgd(points.model, points.clean, points.wanted, points.lengths),
    "twin_clean": lambda points: points.clean,
    "twin_triggered": lambda points: points.triggered,
    "twin_universal": lambda points: _universal(points, "twin_universal"),
}
