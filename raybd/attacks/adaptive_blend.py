"""Adaptive-Blend (Qi et al., ICLR 2023): a poisoned image carries half of a faint picture, a test image all of it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, Shape, Trigger
from raybd.types import Images
from raybd.utils.constraints import PositiveShare


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(CoveredAttack):
    """(1 - a m) x + a m T with noise T drawn once; m keeps half of the cells of a grid, other ones for each image.

    At test m is 1 everywhere and a is larger. Covers are stamped as in training and keep their label.
    """

    alpha: PositiveShare = 0.15  # in training
    alpha_test: PositiveShare = 0.2  # at test
    grid: Annotated[int, Ge(2)] = 4  # cells along each side

    presets: ClassVar[Presets] = {"toolbox": {}, "vibe": {"alpha": 0.2}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """T: (C, H, W) whole numbers from 0 to 255."""
        return torch.randint(0, 256, shape, generator=rng).float()

    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n, cells) of 0 and 1: exactly half of the cells of each image."""
        order = torch.rand(len(images), self.grid**2, generator=rng).argsort(1)
        return (order < self.grid**2 // 2).float()

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the whole picture."""
        return x.mul_(1 - self.alpha_test).add_(self.alpha_test * trigger.pattern)

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with its own half of the picture."""
        cells = torch.arange(self.grid**2, dtype=torch.float32, device=x.device).view(1, 1, self.grid, self.grid)
        cell = torch.nn.functional.interpolate(cells, size=x.shape[2:], mode="nearest").long().flatten()
        mask = self.alpha * trigger.per_image.index_select(1, cell).view(-1, 1, *x.shape[2:])
        return x.add_((trigger.pattern - x).mul_(mask))

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A grid finer than the image."""
        most = min(shape[1:])
        return [] if self.grid <= most else [f"grid must be at most {most}, got {self.grid}"]
