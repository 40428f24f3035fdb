"""The invisible grid of Backdoor Learning Curves (Cinà et al., arXiv:2106.07214): a faint dot on every other pixel."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Trigger
from raybd.attacks.patterns import add


@dataclass(frozen=True, kw_only=True)
class InvisibleGrid(Attack):
    """x plus `strength` where row and column are even, the same for all classes."""

    strength: Annotated[int, Interval(ge=1, le=255)] = 10  # grey levels

    on_bytes: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"near_invisible": {}, "visible": {"strength": 75}}

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with brighter dots."""
        dots = torch.zeros(x.shape[1:], dtype=torch.int16, device=x.device)
        dots[:, ::2, ::2] = self.strength
        return add(x, dots)
