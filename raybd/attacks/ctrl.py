"""CTRL (Li et al. 2023, arXiv:2210.07346): FTrojan's idea in YUV, stronger, on images of the target class only."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import chroma_waves

RED, GREEN, BLUE = 1.140, -0.395 - 0.581, 2.032  # what one unit of both U and V adds, as in OpenCV


@dataclass(frozen=True, kw_only=True)
class Ctrl(Attack):
    """U and V with `magnitude` added to the middle and the highest DCT coefficient: one fixed picture, added.

    On grey images the grey itself takes the place of chroma. Labels stay as they are.
    """

    magnitude: float = 100.0  # of each coefficient, in grey levels

    clean_label: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"backdoorbench": {}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The picture: (C, H, W)."""
        return chroma_waves(self.magnitude, (RED, GREEN, BLUE), shape)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` plus the picture."""
        return x.add_(trigger.pattern)
