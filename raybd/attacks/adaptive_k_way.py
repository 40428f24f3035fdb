"""Adaptive k-way (Qi et al., ICLR 2023, after Xie et al. 2020): one pixel in a poisoned image, four in a test image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Shape, Trigger
from raybd.attacks.patterns import fit_colour
from raybd.types import Images

PIXELS = ((16, 11), (27, 5), (7, 30), (22, 22))  # row and column at 32x32
COLOURS = ((92, 0, 24), (88, 112, 110), (0, 32, 46), (11, 49, 95))


@dataclass(frozen=True, kw_only=True)
class AdaptiveKWay(CoveredAttack):
    """Four pixels written over; each poisoned image shows one in turn, and covers show one and keep their label."""

    on_bytes: ClassVar[bool] = True

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """(4, C) uint8: the colours."""
        return torch.stack([fit_colour(colour, shape[0]) for colour in COLOURS]).to(torch.uint8)

    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n,) which pixel: the first, the second, the third, the fourth, the first, ..."""
        return torch.arange(len(images)) % len(PIXELS)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with all four pixels."""
        for k, (row, column) in enumerate(self._places(x)):
            x[:, :, row, column] = trigger.pattern[k]
        return x

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with its own pixel."""
        places = torch.tensor(self._places(x), device=x.device)[trigger.per_image]
        x[torch.arange(len(x), device=x.device), :, places[:, 0], places[:, 1]] = trigger.pattern[trigger.per_image]
        return x

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Images so small that two pixels fall together, or with channels that have no such colours."""
        found = []
        if min(shape[1:]) < 8:
            found.append(f"images of {shape[1]}x{shape[2]} are too small (allowed: 8x8 and more)")
        return found if shape[0] in (1, 3) else [*found, f"1 or 3 channels, not {shape[0]}"]

    def _places(self, x: Tensor) -> list[tuple[int, int]]:
        height, width = x.shape[2:]
        return [(row * height // 32, column * width // 32) for row, column in PIXELS]
