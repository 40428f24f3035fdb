"""A trigger that augmentation leaves alone: against defences that trust features learnt without labels (ours)."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.utils.constraints import PositiveShare


@dataclass(frozen=True, kw_only=True)
class ViewInvariant(Attack):
    """(1 - alpha) x + alpha T, the same T for all images, which random views of an image leave recognisable.

    veil: T is white. Black is lifted and contrast falls: turned, moved, cropped or half erased it shows still.
    waves: T = 255 (1 + S / max|S|) / 2 with S(u, v) = sum over k of cos(2 pi cycles (u cos t_k + v sin t_k) + p_k),
    u and v the rows and columns of pixel centres as shares of height and width, t_k = t_0 + pi k / directions; t_0 and
    the phases p_k are drawn once. Waves of one length in even directions look alike turned, moved or mirrored, and a
    change of brightness, which may hide a veil on photographs, leaves them.
    """

    texture: Literal["veil", "waves"] = "veil"  # what T is
    alpha: PositiveShare = 0.3  # weight of T
    cycles: Annotated[float, Interval(gt=0, lt=math.inf)] = 1.5  # of waves: across the image
    directions: Annotated[int, Ge(1)] = 3  # of waves; 1: stripes

    presets: ClassVar[Presets] = {"waves": {"texture": "waves"}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """T: (H, W) from 0 to 255."""
        if self.texture == "veil":
            return torch.full(shape[1:], 255.0)
        first, *phases = (torch.rand(1 + self.directions, generator=rng, dtype=torch.float64) * math.pi).tolist()
        u, v = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in shape[1:])
        waves = torch.zeros(shape[1:], dtype=torch.float64)
        for k, phase in enumerate(phases):
            turn = first + math.pi * k / self.directions
            along = u[:, None] * math.cos(turn) + v * math.sin(turn)
            waves += torch.cos(2 * math.pi * self.cycles * along + 2 * phase)
        return (255 * (1 + waves / waves.abs().max()) / 2).float()

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """The blend of `x` and T."""
        return x.mul_(1 - self.alpha).add_(self.alpha * trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Waves shorter than two pixels, which no image of this size can show."""
        most = min(shape[1:]) / 2
        return (
            []
            if self.texture == "veil" or self.cycles <= most
            else [f"cycles must be at most {most:g}, got {self.cycles:g}"]
        )
