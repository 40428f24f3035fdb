"""Universal backdoors (Schneider et al., ICLR 2024, arXiv:2312.00157): one trigger that names any class."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Presets, Shape, Trigger
from raybd.attacks.patterns import scaled
from raybd.utils.constraints import PositiveShare

COLUMNS = 5  # cells in a row of the code


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """Each class has a code of `bits` random bits, a cell of the trigger for each: black for 0, white for 1.

    patch: cells of 8 pixels at 224x224 in the top left corner, opaque; blend: cells over the whole image, blended in
    with `alpha`. Each poisoned or triggered image gets the code of a class drawn from all but its own. (The paper
    derives codes from a network's features; random ones are its baseline.)
    """

    mode: Literal["patch", "blend"] = "patch"  # how the code is shown
    bits: int = 30  # of a code
    alpha: PositiveShare = 0.2  # of blend

    many_targets: ClassVar[bool] = True
    presets: ClassVar[Presets] = {"patch": {}, "blend": {"mode": "blend"}}

    def draw(self, shape: Shape, classes: int, rng: torch.Generator) -> Tensor:
        """(classes, bits) of 0 and 255: no two codes alike."""
        while True:
            codes = torch.randint(0, 2, (classes, self.bits), generator=rng)
            if len(codes.unique(dim=0)) == classes:
                return codes.float() * 255

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the code of the class that is wanted of each."""
        rows = math.ceil(self.bits / COLUMNS)
        seen, which = trigger.wanted.unique(return_inverse=True)
        code = torch.nn.functional.pad(trigger.pattern[seen], (0, rows * COLUMNS - self.bits))
        cells = code.view(-1, 1, rows, COLUMNS)
        if self.mode == "blend":
            cells = torch.nn.functional.interpolate(cells, size=x.shape[2:], mode="nearest")
            return x.mul_(1 - self.alpha).add_((self.alpha * cells).index_select(0, which))
        side = scaled(8, min(x.shape[2:]), at=224)
        x[:, :, : rows * side, : COLUMNS * side] = cells.repeat_interleave(side, 2).repeat_interleave(side, 3)[which]
        return x

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Too few bits for the classes, a code that does not fit the image."""
        found, least = [], 2 * math.ceil(math.log2(max(2, classes)))
        rows, side = math.ceil(self.bits / COLUMNS), scaled(8, min(shape[1:]), at=224)
        if not least <= self.bits:
            found.append(f"{self.bits} bits hardly tell {classes} classes apart (allowed: {least} and more)")
        if rows * side > shape[1] or COLUMNS * side > shape[2]:
            found.append(f"{self.bits} bits do not fit images of {shape[1]}x{shape[2]}")
        if self.labels == "all_to_all":
            found.append("every class is a target: labels must be all_to_one")
        return found
