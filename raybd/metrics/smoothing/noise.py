"""The noise z ~ N(0, I) of W: one stream for each (seed, point, block), whatever else is drawn.

A block is drawn whole, so the first n' draws of a point are a prefix of its first n; neither the batch, nor the order
of the points, nor which other points there are can change a vote. One z serves every sigma and every variant.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from raybd.seeds import derive

MAX_DRAWS = 32  # draws of a block
# Above this many values CUDA's generator gives other numbers on other GPUs (a T4 is the first: 40 multiprocessors
# of 1024 threads); images of more values than this keep their streams on one kind of GPU only.
MAX_PORTABLE_VALUES = 40_960


def block_size(shape: Sequence[int]) -> int:
    """Draws of one block for images of `shape` (C, H, W): a power of two, at most 32, portable where one image is."""
    return 1 << max(0, min(MAX_DRAWS, MAX_PORTABLE_VALUES // math.prod(shape)).bit_length() - 1)


def noise(seed: int, points: Sequence[int], block: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """Block number `block` of every one of `points` (their ids): (P, block_size, C, H, W) float32, N(0, 1)."""
    z = torch.empty(len(points), block_size(shape), *shape, device=device)
    rng = torch.Generator(device)
    for slot, point in zip(z, points, strict=True):
        rng.manual_seed(derive(seed, "smoothness", "noise", point, block))  # one generator: making one costs more
        slot.normal_(generator=rng)
    return z
