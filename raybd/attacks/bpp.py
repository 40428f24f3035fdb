"""BppAttack (Wang et al. 2022, arXiv:2205.13383): fewer grey levels than the eye would miss."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, RoundedAttack, Trigger
from raybd.types import Images

SPREAD = ((1, -1, 3 / 16), (0, 1, 7 / 16), (1, 0, 5 / 16), (1, 1, 1 / 16))  # (down, right, share): Floyd, Steinberg


@dataclass(frozen=True, kw_only=True)
class Bpp(CoveredAttack, RoundedAttack):
    """round(x / 255 (m - 1)) / (m - 1) 255, with or without Floyd-Steinberg dithering.

    Covers carry the change that the trigger makes to another training image, and keep their label.
    """

    levels: Annotated[int, Interval(ge=2, le=255)] = 8  # m, in each channel
    dithering: bool = True  # as in the paper

    presets: ClassVar[Presets] = {"toolbox": {}, "backdoorbench": {"dithering": False, "rounding": "down"}}

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` in `levels` grey levels."""
        return self._coarse(x)

    def draw_per_cover(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n, C, H, W): what the trigger changes in other images."""
        donors = torch.randint(len(train), (len(images),), generator=rng).to(train.x.device)
        before = train.x.index_select(0, donors).float()
        return self._coarse(before.clone()).sub_(before)

    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` plus another image's change."""
        return x.add_(trigger.per_image)

    def _coarse(self, x: Tensor) -> Tensor:
        return self._dithered(x) if self.dithering else self._nearest(x)

    def _nearest(self, x: Tensor) -> Tensor:
        """`x`, overwritten with the levels next to it."""
        # Half a level up and cut: 127.5 / 255 * 7 has no even neighbour to be rounded to by chance
        steps = self.levels - 1
        return x.mul_(steps).div_(255).add_(0.5).floor_().mul_(255).div_(steps)

    def _dithered(self, x: Tensor) -> Tensor:
        """Each pixel's error goes to those right and below, for all images at once.

        So it does for all pixels (row, wave - 2 row): what they need has come to them. A margin takes what leaves.
        """
        (height, width), flat = x.shape[2:], x.flatten(0, 1)
        field = x.new_zeros(height + 1, width + 2, len(flat))
        field[:height, 1:-1] = flat.permute(1, 2, 0)
        pixels = field.flatten(0, 1)
        for wave in range(2 * height + width - 2):
            top, bottom = max(0, (wave - width + 2) // 2), min(height - 1, wave // 2)
            first, stop = top * width + wave + 1, bottom * width + wave + 2
            old = pixels[first:stop:width]
            new = self._nearest(old.clone()).clamp_(0, 255)
            error = old - new
            old.copy_(new)
            for down, right, share in SPREAD:
                there = down * (width + 2) + right
                pixels[first + there : stop + there : width] += share * error
        return field[:height, 1:-1].reshape(height, width, *x.shape[:2]).permute(2, 3, 0, 1)
