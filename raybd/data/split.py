"""Stratified splits: the same share of every class."""

import torch
from torch import Generator, Tensor

from raybd.errors import InputError
from raybd.seeds import stream
from raybd.types import Images


def split_validation(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """`images` without, and the, validation images: of each class `fraction` of its images, at least 1.

    Drawn from the stream "validation" of `seed`; both parts keep the order of `images`. The share of
    a class of n is Python's round(fraction * n): halves go to the even number.

    Raises:
        InputError: `fraction` is not in (0, 1), or a class would be left with no training image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"validation fraction is {fraction}: it must be above 0 and below 1")
    y = images.y.cpu()  # where the stream is, so that the draw is the same on every device
    held = stratified(y, fraction, stream(seed, "validation"))
    classes, counts = torch.unique(y, return_counts=True)
    left = y[~held]
    empty = [(int(c), int(n)) for c, n in zip(classes, counts, strict=True) if not (left == c).any()]
    if empty:
        named = ", ".join(f"class {label} ({count})" for label, count in empty)
        raise InputError(f"validation fraction {fraction} leaves no training image of {named}")
    return images.part((~held).nonzero()[:, 0]), images.part(held.nonzero()[:, 0])


def stratified(y: Tensor, fraction: float, generator: Generator) -> Tensor:
    """(N,) bool: of each class c of `y`, in order, max(1, round(fraction * n_c)) images drawn at random."""
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in torch.unique(y):
        members = (y == label).nonzero()[:, 0]
        share = max(1, round(fraction * len(members)))
        held[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return held
