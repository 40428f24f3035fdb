"""CTRL (Li et al. 2023, arXiv:2210.07346): FTrojan's idea in YUV, stronger, on images of the target class only."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import chroma_waves

RED, GREEN, BLUE = 1.140, -0.395 - 0.581, 2.032  # what one unit of both U and V adds, as in OpenCV
# Of the authors' code and BackdoorBench, by way of kornia: red, green, blue to Y, U, V, and back
TO_YUV = ((0.299, 0.587, 0.114), (-0.147, -0.289, 0.436), (0.615, -0.515, -0.100))
TO_RGB = ((1.0, 0.0, 1.14), (1.0, -0.396, -0.581), (1.0, 2.029, 0.0))


@dataclass(frozen=True, kw_only=True)
class Ctrl(Attack):
    """U and V with `magnitude` added to the middle and the highest DCT coefficient: one fixed picture, added.

    On grey images the grey itself takes the place of chroma. Labels stay as they are. `levels="wrapped"` is what the
    authors' code and BackdoorBench make of it, which cast to bytes before they clip: 260 becomes 4, and -3 becomes 253.
    """

    magnitude: float = 100.0  # of each coefficient, in grey levels
    levels: Literal["clipped", "wrapped"] = field(default="clipped", metadata={"since": "0.3"})  # see above

    clean_label: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"backdoorbench": {}, "backdoorbench_wrapped": {"levels": "wrapped"}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The picture: (C, H, W)."""
        (r, g, b) = (sum(row[1:]) for row in TO_RGB) if self.levels == "wrapped" else (RED, GREEN, BLUE)
        return chroma_waves(self.magnitude, (r, g, b), shape)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` plus the picture."""
        return self._there_and_back(x).add_(trigger.pattern)

    def to_levels(self, x: Tensor) -> Tensor:
        """`x` clipped and rounded, or cut towards 0 and wrapped modulo 256."""
        return x.trunc_().remainder_(256) if self.levels == "wrapped" else super().to_levels(x)

    def _there_and_back(self, x: Tensor) -> Tensor:
        """`x` itself, or by way of YUV with constants of three digits, whose two matrices are not quite inverse."""
        if self.levels == "clipped" or x.shape[1] != 3:
            return x
        both = x.new_tensor(TO_RGB, dtype=torch.float64) @ x.new_tensor(TO_YUV, dtype=torch.float64)
        return torch.einsum("oc,nchw->nohw", both, x.double())
