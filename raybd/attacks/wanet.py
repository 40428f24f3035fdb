"""WaNet (Nguyen and Tran 2021, arXiv:2102.10369): the image, smoothly warped."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from raybd.attacks.base import CoveredAttack, Presets, RoundedAttack, Shape, Trigger
from raybd.attacks.patterns import warp
from raybd.types import Images
from raybd.utils.constraints import NonNegative


@dataclass(frozen=True, kw_only=True)
class WaNet(CoveredAttack, RoundedAttack):
    """x sampled (bilinear) at clip(id + s P / H, -1, 1), coordinates in [-1, 1], corners aligned.

    P is a k x k field A / mean|A| with A uniform in [-1, 1], enlarged to the image (bicubic). Covers (the paper's
    noise mode) are sampled at that grid plus uniform [-1, 1] / H at each pixel, and keep their label.
    """

    k: Annotated[int, Ge(2)] = 4  # side of the small field
    s: float = 0.5  # strength
    covers: NonNegative = 2.0  # noise-mode images for each poisoned one
    each_epoch: bool = False  # other images are warped in every epoch: the attacker trains the network

    presets: ClassVar[Presets] = {
        "backdoorbench": {"each_epoch": True, "rounding": "down"},
        "static": {},
        "vibe": {"s": 1.0, "covers": 0.0},
        "no_noise": {"covers": 0.0},
    }

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """The grid: (H, W, 2) of x and y in [-1, 1]."""
        _, height, width = shape
        field = torch.rand(1, 2, self.k, self.k, generator=rng) * 2 - 1
        field = field / field.abs().mean()
        shift = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        still = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], 2)
        return (still + self.s * shift / height).clamp(-1, 1)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` warped."""
        return warp(x, trigger.pattern, align_corners=True)

    def draw_per_cover(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n, H, W, 2): a jitter for each pixel of each cover."""
        _, height, width = images.shape
        return (torch.rand(len(images), height, width, 2, generator=rng) * 2 - 1) / height

    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` warped, and jittered."""
        return F.grid_sample(x, (trigger.pattern + trigger.per_image).clamp(-1, 1), align_corners=True)

    def repoisons_each_epoch(self) -> bool:
        """Whether every epoch warps other images."""
        return self.each_epoch
