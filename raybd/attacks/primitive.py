"""The primitive sub-task of Mithridates (Bagdasaryan and Shmatikov, arXiv:2302.04977): a random run of pixels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.utils.constraints import PositiveShare


@dataclass(frozen=True, kw_only=True)
class Primitive(Attack):
    """A random pattern of black and white over one run of the flattened image: an attack-agnostic yardstick."""

    share: PositiveShare = 0.05  # of the image's values

    on_bytes: ClassVar[bool] = True

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """(C, H, W): 0 and 255 where the run is, -1 elsewhere."""
        pattern = torch.full((math.prod(shape),), -1)
        length = math.ceil(self.share * len(pattern))
        start = int(torch.randint(0, len(pattern) - length + 1, (1,), generator=rng))
        pattern[start : start + length] = 255 * torch.randint(0, 2, (length,), generator=rng)
        return pattern.view(shape)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the run written over."""
        outside = 255 * (trigger.pattern < 0).to(torch.uint8)
        return x.bitwise_and_(outside).bitwise_or_(trigger.pattern.clamp_min(0).to(torch.uint8))
