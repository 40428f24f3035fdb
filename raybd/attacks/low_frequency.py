"""A smooth trigger after Zeng et al. 2021 (arXiv:2104.03413), drawn instead of searched for with a trained network."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.attacks.patterns import cosine


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """x plus one fixed picture of the lowest DCT waves with Gaussian weights, scaled to 0 ... `strength`."""

    strength: Annotated[float, Interval(gt=0, le=255)] = 51.0  # grey levels at its brightest point: a fifth of white
    waves: Annotated[int, Ge(2)] = 4  # coefficients kept in each direction, the constant not among them

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The picture: (C, H, W) from 0 to `strength`."""
        weights = torch.randn(shape[0], self.waves, self.waves, generator=rng)
        weights[:, 0, 0] = 0
        waves = torch.stack([cosine(shape, u, v) for u in range(self.waves) for v in range(self.waves)])
        picture = torch.einsum("cw,whx->chx", weights.flatten(1), waves)
        picture = picture - picture.amin((1, 2), keepdim=True)
        return self.strength * picture / picture.amax((1, 2), keepdim=True)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` plus the picture."""
        return x.add_(trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """More waves than the image has."""
        most = min(shape[1:])
        return [] if self.waves <= most else [f"waves must be at most {most}, got {self.waves}"]
