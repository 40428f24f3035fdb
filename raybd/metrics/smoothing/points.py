"""What W is measured on: the points of a trial, and every variant of them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.smoothing.adversarial import pgd, universal
from raybd.metrics.smoothing.controls import is_patch, moved, moved_patch, random_patch, support
from raybd.metrics.smoothing.noise import noise
from raybd.metrics.smoothing.plans import TWIN
from raybd.seeds import derive, stream
from raybd.types import MetricContext

log = logging.getLogger(__name__)
SEARCHED = 512  # training images on which a universal perturbation is sought


@dataclass(frozen=True)
class EvaluationPoints:
    """N points, clean and triggered, and the two networks."""

    model: nn.Module
    twin: nn.Module | None
    clean: Tensor  # (N, C, H, W) float32 in [0, 1]
    triggered: Tensor
    wanted: Tensor  # (N,) int64: the class that the attacker wants
    points: tuple[int, ...]  # rows of the triggered test images: the ids of their noise
    others: Tensor  # (M, C, H, W) training images, and what the attacker would want of them (M,)
    others_wanted: Tensor
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
    rows = _some(context.measured, points, context.seed, "points")
    lookup = torch.arange(len(context.data.classes), device=context.triggered.y.device)
    test = context.data.test
    lookup[test.y.repeat(len(context.members))] = context.triggered.y
    train = context.data.train
    others = _some(lookup[train.y] != train.y, SEARCHED, context.seed, "others")
    return EvaluationPoints(
        model=context.model,
        twin=context.twin,
        clean=pixels(test.x[rows % len(test)]),
        triggered=pixels(context.triggered.x[rows]),
        wanted=context.triggered.y[rows],
        points=tuple(rows.tolist()),
        others=pixels(train.x[others]),
        others_wanted=lookup[train.y[others]],
        seed=context.seed,
        heartbeat=context.heartbeat,
    )


def target_class(context: MetricContext, points: int) -> tuple[Tensor, tuple[int, ...]]:
    """Clean test images of the class that the attacker wants of them, and their ids; maybe none."""
    rows = _some(
        context.data.test.y == context.triggered.y[: len(context.data.test)], points, context.seed, "target_class"
    )
    return pixels(context.data.test.x[rows]), tuple(rows.tolist())


def pixels(x: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return x.float() / 255


def variants(evaluation_points: EvaluationPoints, names: Sequence[str]) -> dict[str, Tensor]:
    """The images (N, C, H, W) of each of `names`; one that does not exist for this trigger is left out, and logged."""
    made = {name: MAKERS[name](evaluation_points) for name in names}
    if absent := [name for name, images in made.items() if images is None]:
        log.info("this trigger has no %s", ", ".join(absent))
    return {name: images for name, images in made.items() if images is not None}


def network(evaluation_points: EvaluationPoints, name: str) -> nn.Module:
    """The network that variant `name` is shown to.

    Raises:
        InputError: it is the clean twin, and the trial has none.
    """
    if name not in TWIN:
        return evaluation_points.model
    if evaluation_points.twin is None:
        raise InputError(f"smoothness of {name} needs the clean twin, and this trial came without it")
    return evaluation_points.twin


def _some(mask: Tensor, most: int, seed: int, name: str) -> Tensor:
    """At most `most` indices of `mask` in random order."""
    eligible = mask.cpu().nonzero().flatten()
    order = torch.randperm(len(eligible), generator=stream(seed, "smoothness", name))
    return eligible[order[:most]].to(mask.device)


def _random_patch(evaluation_points: EvaluationPoints) -> Tensor | None:
    mask = support(evaluation_points.clean, evaluation_points.triggered)
    return (
        random_patch(evaluation_points.clean, mask, stream(evaluation_points.seed, "smoothness", "patch"))
        if is_patch(mask)
        else None
    )


def _moved_patch(evaluation_points: EvaluationPoints) -> Tensor | None:
    mask = support(evaluation_points.clean, evaluation_points.triggered)
    if not is_patch(mask):
        return None
    return moved_patch(
        evaluation_points.clean,
        evaluation_points.triggered,
        mask,
        stream(evaluation_points.seed, "smoothness", "place"),
    )


def _random_direction(evaluation_points: EvaluationPoints) -> Tensor:
    # Streams of their own: they must not be the noise that is then drawn around the points.
    seed, device = derive(evaluation_points.seed, "smoothness", "direction"), evaluation_points.clean.device
    directions = noise(seed, evaluation_points.points, 0, evaluation_points.clean.shape[1:], device)[:, 0]
    return moved(evaluation_points.clean, directions, evaluation_points.lengths)


def _universal(evaluation_points: EvaluationPoints, name: str) -> Tensor:
    found = universal(
        network(evaluation_points, name),
        evaluation_points.others,
        evaluation_points.others_wanted,
        float(evaluation_points.lengths.mean()),
    )
    return moved(evaluation_points.clean, found, evaluation_points.lengths)


MAKERS: dict[str, Callable[[EvaluationPoints], Tensor | None]] = {
    "clean": lambda evaluation_points: evaluation_points.clean,
    "triggered": lambda evaluation_points: evaluation_points.triggered,
    "random_patch": _random_patch,
    "moved_patch": _moved_patch,
    "random_direction": _random_direction,
    "universal": lambda evaluation_points: _universal(evaluation_points, "universal"),
    "pgd": lambda evaluation_points: pgd(
        evaluation_points.model, evaluation_points.clean, evaluation_points.wanted, evaluation_points.lengths
    ),
    "twin_clean": lambda evaluation_points: evaluation_points.clean,
    "twin_triggered": lambda evaluation_points: evaluation_points.triggered,
    "twin_universal": lambda evaluation_points: _universal(evaluation_points, "twin_universal"),
}
