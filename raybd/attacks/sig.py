"""SIG (Barni et al. 2019, arXiv:1902.11237): a sine wave along the rows, on images of the target class only."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Presets, RoundedAttack, Shape, Trigger


@dataclass(frozen=True, kw_only=True)
class Sig(RoundedAttack):
    """x(i, j) + delta sin(2 pi j f / W), the same in all rows i and channels; labels stay as they are."""

    delta: float = 40.0  # grey levels
    frequency: int = 6  # waves across the image

    clean_label: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"backdoorbench": {"rounding": "down"}, "toolbox": {"delta": 30}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The wave: (W,)."""
        columns = torch.arange(shape[2], dtype=torch.float64)
        return (self.delta * torch.sin(2 * math.pi * columns * self.frequency / shape[2])).float()

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the wave."""
        return self.wide(x).add_(trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A wave that is zero at every pixel."""
        if self.frequency >= 1 and 2 * self.frequency % shape[2]:
            return []
        return [f"{self.frequency} waves across {shape[2]} pixels are zero at each of them"]
