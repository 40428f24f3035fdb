"""Promises that are kept or broken, and made images to try methods on."""

from collections.abc import Callable
from typing import TypeVar

import torch

from raybd.types import Images

T = TypeVar("T")
Check = Callable[[T], None]  # raises a BrokenPromiseError; its docstring says what is promised


class BrokenPromiseError(AssertionError):
    """A method breaks a promise that a sweep relies on."""


def promise(kept: bool, said: str) -> None:
    """Raise a BrokenPromiseError that says `said` unless `kept`."""
    if not kept:
        raise BrokenPromiseError(said)


def made_images(n: int = 40, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 4, seed: int = 0) -> Images:
    """Random images of which each class has its equal share."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, *shape), generator=rng, dtype=torch.uint8)
    return Images(x, torch.arange(n) % classes)
