"""Adaptive-Patch (Qi et al., ICLR 2023): four patches; each poisoned image carries a faint one, a test image some."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, Shape, Trigger
from raybd.attacks.patterns import scaled
from raybd.types import Images
from raybd.utils.constraints import NonNegative, PositiveShare

PLACES = ((1, 1), (1, 26), (26, 1), (26, 26))  # row and column of each patch's corner at 32x32


@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(CoveredAttack):
    """Four squares of noise, 5 pixels of 32, one in each corner, blended with `alphas` in training and written at test.

    Every fourth poisoned image carries the same one. Covers are stamped as in training and keep their label.
    """

    alphas: tuple[PositiveShare, ...] = (0.5, 0.2, 0.5, 0.3)  # of each patch in training
    at_test: tuple[Annotated[int, Interval(ge=0, lt=len(PLACES))], ...] = (
        0,
        2,
    )  # patches in a test image, opaque
    covers: NonNegative = 2.0

    presets: ClassVar[Presets] = {
        "toolbox": {},
        "vibe": {"covers": 1.0},
        "backdoorbox": {"alphas": (0.5, 0.5, 0.2, 0.3)},
        "all_at_test": {"at_test": (0, 1, 2, 3)},
    }

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """(4, C, side, side) whole numbers from 0 to 255."""
        side = scaled(5, min(shape[1:]), least=2)
        return torch.randint(0, 256, (4, shape[0], side, side), generator=rng).float()

    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n,) which patch: the first, the second, the third, the fourth, the first, ..."""
        return torch.arange(len(images)) % len(PLACES)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the patches of `at_test` written over it."""
        for k in self.at_test:
            self._window(x, trigger, k)[:] = trigger.pattern[k]
        return x

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with its own patch, blended in."""
        for k, alpha in enumerate(self.alphas):
            window = self._window(x, trigger, k)
            own = (trigger.per_image == k).view(-1, 1, 1, 1)
            window += own * alpha * (trigger.pattern[k] - window)
        return x

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Other than four alphas, no patch at test."""
        found = [] if len(self.alphas) == len(PLACES) else [f"alphas must be four, got {self.alphas}"]
        return found + ([] if self.at_test else ["at_test must name at least one patch"])

    def _window(self, x: Tensor, trigger: Trigger, k: int) -> Tensor:
        """The pixels of `x` under patch `k`."""
        side, (height, width), (row, column) = trigger.pattern.shape[-1], x.shape[2:], PLACES[k]
        top, left = (row * (height - side) + 13) // 27, (column * (width - side) + 13) // 27
        return x[:, :, top : top + side, left : left + side]
