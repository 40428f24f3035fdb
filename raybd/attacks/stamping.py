"""Stamping of triggers into bytes: in blocks, or of a set that is streamed when its images are read."""

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.data.target import Target
from raybd.pixels import Edited, Pixels
from raybd.types import COVER, Images

TURNS = 4  # parts of the trigger that adaptive attacks deal out in turn: each block begins with the first
Stamp = Callable[[Tensor, Trigger], Tensor]


def in_bytes(attack: Attack, stamp: Stamp, x: Tensor, trigger: Trigger, out: Tensor) -> None:
    """Make `out` what a file would hold of `x` (n, C, H, W) uint8 with the trigger, clipped and rounded."""
    if attack.on_bytes:
        out.copy_(stamp(out.copy_(x), trigger))
    else:  # by way of int16: a CPU turns floats into single bytes one by one
        out.copy_(attack.to_levels(stamp(x.float(), trigger)).to(torch.int16))


def blocks(attack: Attack, shape: Shape, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The rows of `columns` in blocks of as many images as the attack stamps at once."""
    size = max(1, attack.chunk // math.prod(shape) // TURNS) * TURNS
    pieces = (column.split(size) for column in columns if len(column))
    return zip(*pieces, strict=True)


def draws_per_image(attack: Attack, role: int) -> bool:
    """Whether the attack draws a part of the trigger for each image, of poison or of covers."""
    own = type(attack).draw_per_image is not Attack.draw_per_image
    return own or (role == COVER and type(attack).draw_per_cover is not Attack.draw_per_cover)


@dataclass(frozen=True, eq=False)
class Part(ABC):
    """Some images of a set that is streamed, and how they get their trigger when they are read."""

    rows: Tensor  # (N,) int32, on the CPU: which of the part's images one of the set is; -1: none

    @abstractmethod
    def stamped(self, x: Tensor, places: Tensor) -> Tensor:
        """`x` (n, C, H, W), the images at `places` (n,) of the set, all of this part, with the trigger."""


@dataclass(frozen=True, eq=False)
class RulePart(Part):
    """Images whose trigger follows from the attack's rule: it is stamped anew each time they are read."""

    attack: Attack
    stamp: Stamp
    trigger: Trigger  # of all N images of the set; nothing per image

    @classmethod
    def of(cls, index: Tensor, attack: Attack, stamp: Stamp, trigger: Trigger) -> "RulePart":
        """The part `index` (n,) of the images that `trigger` is of."""
        on_cpu = Trigger(trigger.pattern.cpu(), trigger.true.cpu(), trigger.wanted.cpu(), trigger.per_image)
        return cls(_rows(index, len(trigger.true)), attack, stamp, on_cpu)

    def stamped(self, x: Tensor, places: Tensor) -> Tensor:
        """`x` with the trigger, a block at a time."""
        columns = (column[places].to(x.device) for column in (self.trigger.true, self.trigger.wanted))
        pattern, nothing = self.trigger.pattern.to(x.device), torch.empty(len(x), 0, device=x.device)
        shape = (x.shape[1], x.shape[2], x.shape[3])
        for some, true, wanted, part in blocks(self.attack, shape, x, *columns, nothing):
            in_bytes(self.attack, self.stamp, some, Trigger(pattern, true, wanted, part), some)
        return x


@dataclass(frozen=True, eq=False)
class KeptPart(Part):
    """Images whose trigger was drawn for each of them: stamped once, and kept in a file without a name."""

    kept: Tensor  # (n, C, H, W) uint8

    @classmethod
    def of(cls, index: Tensor, images: Images, stamped: Iterable[tuple[Tensor, Tensor]]) -> "KeptPart":
        """The part `index` (n,) of `images`, which `stamped` gives in blocks with their indices, in that order."""
        folder, start = Path(tempfile.gettempdir()), 0
        kept = torch.from_numpy(Target(folder=folder).empty((len(index), *images.shape)))
        for at, x in stamped:
            kept[start : start + len(at)] = x.cpu()
            start += len(at)
        return cls(_rows(index, len(images)), kept)

    def stamped(self, x: Tensor, places: Tensor) -> Tensor:
        """The images from the file."""
        return self.kept[self.rows[places].long()].to(x.device)


def stamped_when_read(base: Pixels, parts: Sequence[Part]) -> Pixels:
    """`base` (N), of which each of `parts` is given its trigger whenever images of it are read."""

    def edit(x: Tensor, places: Tensor) -> Tensor:
        for part in parts:
            hit = (part.rows[places] >= 0).nonzero()[:, 0]
            if len(hit):
                here = hit.to(x.device)
                x[here] = part.stamped(x[here], places[hit])
        return x

    return Pixels(Edited(base, edit), torch.arange(len(base)), base.device)


def _rows(index: Tensor, n: int) -> Tensor:
    rows = torch.full((n,), -1, dtype=torch.int32)
    rows[index.cpu()] = torch.arange(len(index), dtype=torch.int32)
    return rows
