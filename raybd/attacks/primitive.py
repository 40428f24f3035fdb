"""The primitive sub-task of Mithridates (Bagdasaryan and Shmatikov, arXiv:2302.04977): a random run of pixels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger


@dataclass(frozen=True, kw_only=True)
class Primitive(Attack):
    """A random pattern of black and white over one run of the flattened image: an attack-agnostic yardstick."""

    share: float = 0.05  # of the image's values

    on_bytes: ClassVar[bool] = True

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """Where the run begins, then its values: int64."""
        values = math.prod(shape)
        length = math.ceil(self.share * values)
        start = torch.randint(0, values - length + 1, (1,), generator=rng)
        return torch.cat([start, 255 * torch.randint(0, 2, (length,), generator=rng)])

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the run written over."""
        start, values = int(trigger.pattern[0]), trigger.pattern[1:].to(torch.uint8)
        flat = x.flatten(1)  # a copy where the channels lie last
        flat[:, start : start + len(values)] = values
        return flat.view(x.shape)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A share that is none."""
        return [] if 0 < self.share <= 1 else [f"primitive: share {self.share:g} is not in (0, 1]"]
