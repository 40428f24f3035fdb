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
from raybd.types import Evidence

log = logging.getLogger(__name__)
SEARCHED = 512  # training images on which a universal perturbation is sought


@dataclass(frozen=True)
class Scene:
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
    beat: Callable[[], None] = lambda: None

    @property
    def lengths(self) -> Tensor:
        """(N,) L2 of the trigger on each image."""
        lengths: Tensor = (self.triggered - self.clean).flatten(1).norm(dim=1)
        return lengths


def scene(seen: Evidence, points: int) -> Scene:
    """At most `points` of the triggered images that count for the attack, successful or not, by the trial's seed.

    The points of a smaller number are among those of a larger.
    """
    rows = _some(seen.measured, points, seen.seed, "points")
    lookup = torch.arange(len(seen.data.classes), device=seen.triggered.y.device)
    test = seen.data.test
    lookup[test.y.repeat(len(seen.members))] = seen.triggered.y
    train = seen.data.train
    others = _some(lookup[train.y] != train.y, SEARCHED, seen.seed, "others")
    return Scene(
        model=seen.model,
        twin=seen.twin,
        clean=pixels(test.x[rows % len(test)]),
        triggered=pixels(seen.triggered.x[rows]),
        wanted=seen.triggered.y[rows],
        points=tuple(rows.tolist()),
        others=pixels(train.x[others]),
        others_wanted=lookup[train.y[others]],
        seed=seen.seed,
        beat=seen.beat,
    )


def target_class(seen: Evidence, points: int) -> tuple[Tensor, tuple[int, ...]]:
    """Clean test images of the class that the attacker wants of them, and their ids; maybe none."""
    rows = _some(seen.data.test.y == seen.triggered.y[: len(seen.data.test)], points, seen.seed, "target_class")
    return pixels(seen.data.test.x[rows]), tuple(rows.tolist())


def pixels(x: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return x.float() / 255


def variants(scene: Scene, names: Sequence[str]) -> dict[str, Tensor]:
    """The images (N, C, H, W) of each of `names`; one that does not exist for this trigger is left out, and logged."""
    made = {name: MAKERS[name](scene) for name in names}
    if absent := [name for name, images in made.items() if images is None]:
        log.info("this trigger has no %s", ", ".join(absent))
    return {name: images for name, images in made.items() if images is not None}


def network(scene: Scene, name: str) -> nn.Module:
    """The network that variant `name` is shown to.

    Raises:
        InputError: it is the clean twin, and the trial has none.
    """
    if name not in TWIN:
        return scene.model
    if scene.twin is None:
        raise InputError(f"smoothness of {name} needs the clean twin, and this trial came without it")
    return scene.twin


def _some(mask: Tensor, most: int, seed: int, name: str) -> Tensor:
    """At most `most` indices of `mask` in random order."""
    eligible = mask.cpu().nonzero().flatten()
    order = torch.randperm(len(eligible), generator=stream(seed, "smoothness", name))
    return eligible[order[:most]].to(mask.device)


def _random_patch(scene: Scene) -> Tensor | None:
    mask = support(scene.clean, scene.triggered)
    return random_patch(scene.clean, mask, stream(scene.seed, "smoothness", "patch")) if is_patch(mask) else None


def _moved_patch(scene: Scene) -> Tensor | None:
    mask = support(scene.clean, scene.triggered)
    if not is_patch(mask):
        return None
    return moved_patch(scene.clean, scene.triggered, mask, stream(scene.seed, "smoothness", "place"))


def _random_direction(scene: Scene) -> Tensor:
    # Streams of their own: they must not be the noise that is then drawn around the points.
    seed, device = derive(scene.seed, "smoothness", "direction"), scene.clean.device
    directions = noise(seed, scene.points, 0, scene.clean.shape[1:], device)[:, 0]
    return moved(scene.clean, directions, scene.lengths)


def _universal(scene: Scene, name: str) -> Tensor:
    found = universal(network(scene, name), scene.others, scene.others_wanted, float(scene.lengths.mean()))
    return moved(scene.clean, found, scene.lengths)


MAKERS: dict[str, Callable[[Scene], Tensor | None]] = {
    "clean": lambda scene: scene.clean,
    "triggered": lambda scene: scene.triggered,
    "random_patch": _random_patch,
    "moved_patch": _moved_patch,
    "random_direction": _random_direction,
    "universal": lambda scene: _universal(scene, "universal"),
    "pgd": lambda scene: pgd(scene.model, scene.clean, scene.wanted, scene.lengths),
    "twin_clean": lambda scene: scene.clean,
    "twin_triggered": lambda scene: scene.triggered,
    "twin_universal": lambda scene: _universal(scene, "twin_universal"),
}
