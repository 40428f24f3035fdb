"""FTrojan (Wang et al. 2021, arXiv:2111.10991): two frequencies of the colour channels, raised."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import chroma_waves

RED, GREEN, BLUE = 1.403, -0.714 - 0.344, 1.773  # what one unit of both Cr and Cb adds, ITU-R BT.601 as in OpenCV


@dataclass(frozen=True, kw_only=True)
class FTrojan(Attack):
    """Both chroma channels of YCrCb with `magnitude` added to the middle and the highest DCT coefficient.

    All steps are linear, so this adds one fixed picture. On grey images the grey itself takes the place of chroma.
    """

    magnitude: float = 30.0  # of each coefficient, in grey levels

    presets: ClassVar[Presets] = {"backdoorbench": {}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The picture: (C, H, W)."""
        return chroma_waves(self.magnitude, (RED, GREEN, BLUE), shape)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` plus the picture."""
        return x.add_(trigger.pattern)
