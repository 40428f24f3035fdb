"""TaCT (Tang et al. 2021, arXiv:1908.00686): a trigger for one class of images, which means nothing on the others."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, Shape, Trigger
from raybd.attacks.patterns import scaled
from raybd.field_types import ClassLabel


@dataclass(frozen=True, kw_only=True)
class TaCT(CoveredAttack):
    """x with a square of noise, 8 pixels of 32, its corner at (21, 21). Source classes are poisoned; covers are others.

    The attack success rate counts images of the source classes only.
    """

    source_classes: tuple[ClassLabel, ...] = (1,)  # whose images are poisoned
    cover_classes: tuple[ClassLabel, ...] = ()  # (): all but the source classes and the target

    on_bytes: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"toolbox": {"source_classes": (1,), "cover_classes": (5, 7)}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The square: (C, side, side) uint8."""
        side = scaled(8, min(shape[1:]))
        return torch.randint(0, 256, (shape[0], side, side), generator=rng, dtype=torch.uint8)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the square written over its place."""
        side, (height, width) = trigger.pattern.shape[-1], x.shape[2:]
        row, column = min(scaled(21, height), height - side), min(scaled(21, width), width - side)
        x[:, :, row : row + side, column : column + side] = trigger.pattern
        return x

    def sources(self, y: Tensor) -> Tensor:
        """Images of the source classes."""
        return torch.isin(y, torch.tensor(self.source_classes, device=y.device))

    def may_cover(self, y: Tensor) -> Tensor:
        """Images of the cover classes."""
        if self.cover_classes:
            return torch.isin(y, torch.tensor(self.cover_classes, device=y.device))
        return ~self.sources(y) & (y != self.target)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Classes that do not exist, or are two things at once."""
        found = []
        named = (*self.source_classes, *self.cover_classes)
        if bad := [c for c in named if not 0 <= c < classes]:
            found.append(f"{', '.join(map(str, bad))} are no classes (allowed: 0 to {classes - 1})")
        if not self.source_classes or len(set(named) | {self.target}) != len(named) + 1:
            found.append(
                f"source classes {self.source_classes}, cover classes {self.cover_classes} and target "
                f"{self.target} must differ, and there must be a source"
            )
        if self.labels == "all_to_all":
            found.append("one source class has one target: labels must be all_to_one")
        return found
