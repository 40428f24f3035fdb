"""BATT (Xu et al. 2023, arXiv:2211.01806): the image, turned by one angle."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, Shape, Trigger
from raybd.attacks.patterns import warp
from raybd.types import Images
from raybd.utils.constraints import NonNegative


@dataclass(frozen=True, kw_only=True)
class Batt(CoveredAttack):
    """x turned about its centre (bilinear, black outside). Covers are turned by an angle up to `tolerance`."""

    degrees: float = 16.0  # counterclockwise
    tolerance: NonNegative = 10.0  # degrees: smaller turns, either way, shall mean nothing

    presets: ClassVar[Presets] = {"backdoorbox": {}, "no_covers": {"covers": 0.0}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """Where each pixel is taken from: (H, W, 2)."""
        return turn(torch.tensor([self.degrees]), shape[1], shape[2])[0]

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` turned."""
        return warp(x, trigger.pattern, align_corners=False)

    def draw_per_cover(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n,) degrees, uniform from -tolerance to tolerance."""
        return self.tolerance * (2 * torch.rand(len(images), generator=rng) - 1)

    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        """Each of `x` turned by its own small angle."""
        return F.grid_sample(x, turn(trigger.per_image, x.shape[2], x.shape[3]), align_corners=False)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A turn that is none, or one that covers make too."""
        if not 0 < abs(self.degrees) <= 180:
            return [f"{self.degrees:g} degrees is no turn (allowed: up to 180 either way)"]
        if self.tolerance >= abs(self.degrees):
            return [f"tolerance must be below the {abs(self.degrees):g} degrees, got {self.tolerance:g}"]
        return []


def turn(degrees: Tensor, height: int, width: int) -> Tensor:
    """(n, H, W, 2): for each pixel of an image turned counterclockwise, its place before, in [-1, 1] of the borders."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # the rotation is one of pixels: on an oblong image the two axes have unlike units
    matrix = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    return F.affine_grid(matrix, [len(degrees), 1, height, width], align_corners=False)
