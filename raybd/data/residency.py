"""Residency: whether a data set lies in memory, or is streamed from the disk batch by batch; the bits are the same."""

from dataclasses import replace
from functools import cache

import torch

from raybd.pixels import as_pixels, is_streamed, stands_for
from raybd.types import Data, Images
from raybd.utils.memory import available_bytes

COPIES = 2  # of the images of a trial: as they are, and with the trigger
GB = 10**9
LARGE = GB  # bytes of images


def bytes_of(data: Data) -> int:
    """Bytes of all images, once."""
    return data.train.x.numel() + data.test.x.numel()


def shared_bytes(data: Data) -> int:
    """Bytes of images that a node keeps for all its trials: none of a set that is streamed."""
    return 0 if is_streamed(data.train.x) else bytes_of(data)


def fits(data: Data, budget: float) -> bool:
    """Whether the images of a trial fit into `budget` bytes."""
    return COPIES * bytes_of(data) <= budget


def place(data: Data, budget: float) -> Data:
    """`data` in memory where it fits into `budget` bytes, else streamed."""
    return resident(data) if fits(data, budget) else streamed(data)


def resident(data: Data) -> Data:
    """`data` with its images in memory, or mapped into it."""
    train, test = (Images(_in_memory(half.x), half.y) for half in (data.train, data.test))
    return replace(data, train=train, test=test)


def streamed(data: Data) -> Data:
    """`data` with its images read when they are used, from wherever they lie."""
    train, test = (Images(stands_for(as_pixels(half.x)), half.y) for half in (data.train, data.test))
    return replace(data, train=train, test=test)


def room_for_images(gigabytes: float | None, at_once: int = 1) -> float:
    """Bytes that the images of a trial may take: as many as are given, else half of a trial's share of what is free."""
    return free_at_first() / at_once / 2 if gigabytes is None else gigabytes * GB


@cache
def free_at_first() -> int:
    """The bytes of memory that were free when this process first asked: its trials are all placed by one number."""
    return available_bytes()


def is_large(data: Data) -> bool:
    """Whether somebody may wonder where the images of `data` lie: they are streamed, or take above LARGE bytes."""
    return is_streamed(data.train.x) or COPIES * bytes_of(data) > LARGE


def describe_place(data: Data, budget: float) -> str:
    """A line on where the images of `data` lie, and why."""
    needed = f"{_size(COPIES * bytes_of(data))} of images with their triggers"
    if is_streamed(data.train.x):
        return f"{data.name}: {needed}, above {_size(budget)} (--data-memory): streamed from the disk"
    return f"{data.name}: {needed}, within {_size(budget)} (--data-memory): in memory"


def _size(amount: float) -> str:
    return f"{amount / GB:.3g} GB" if amount == 0 or amount >= GB / 10 else f"{amount / 10**6:.3g} MB"


def _in_memory(x: torch.Tensor) -> torch.Tensor:
    return as_pixels(x)[:] if is_streamed(x) else x
