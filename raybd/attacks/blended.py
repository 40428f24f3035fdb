"""Blended (Chen et al. 2017, arXiv:1712.05526): a fixed noise image, faintly, over the whole picture."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.attacks.base import Attack


@dataclass(frozen=True, kw_only=True)
class Blended(Attack):
    """(1 - alpha) x + alpha T with T uniform noise in 0-255, drawn once from the trial's trigger stream."""

    alpha: float = 0.2  # weight of the noise image; 0.2 is BackdoorBench's

    def draw(self, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """T: (C, H, W) whole numbers from 0 to 255."""
        return torch.randint(0, 256, shape, generator=rng).float()

    def stamp(self, x: Tensor, trigger: Tensor) -> Tensor:
        """The blend of `x` and T."""
        return (1 - self.alpha) * x + self.alpha * trigger

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """An alpha that leaves nothing of the trigger or goes past it."""
        return [] if 0 < self.alpha <= 1 else [f"blended: alpha {self.alpha:g} is not in (0, 1]"]
