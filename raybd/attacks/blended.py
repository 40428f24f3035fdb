"""Blended (Chen et al. 2017, arXiv:1712.05526): a fixed picture, faintly, over the whole image."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from raybd.attacks.base import Presets, RoundedAttack, Shape, Trigger
from raybd.attacks.patterns import fit_image
from raybd.attacks.pictures import read_picture, resized_picture
from raybd.errors import InputError
from raybd.utils.constraints import PositiveShare


@dataclass(frozen=True, kw_only=True)
class Blended(RoundedAttack):
    """(1 - alpha) x + alpha T with T uniform noise in 0-255, drawn once from the trial's trigger stream."""

    alpha: PositiveShare = 0.2  # weight of T; 0.2 is BackdoorBench's
    grey: bool = False  # the same noise in every channel
    image: str = field(default="", metadata={"file": True})  # picture to take for T, resized to the images; "": noise

    presets: ClassVar[Presets] = {
        "backdoorbench": {"rounding": "down"},
        "vibe": {"alpha": 0.1},
        "information_bottleneck": {"alpha": 0.3, "grey": True},
    }

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """T: (C, H, W) from 0 to 255."""
        channels, height, width = shape
        if self.image:
            return fit_image(resized_picture(self.image, height, width), channels)
        drawn = 1 if self.grey else channels
        return torch.randint(0, 256, (drawn, height, width), generator=rng).float().expand(shape)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """The blend of `x` and T."""
        return self.wide(x).mul_(1 - self.alpha).add_(self.alpha * trigger.pattern)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """A picture that cannot be used."""
        try:
            if self.image:
                read_picture(self.image)
        except InputError as error:
            return error.problems
        return []
