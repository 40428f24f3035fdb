"""What triggers are made of: sizes and colours that fit any image, cosine waves, and sums that stay bytes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.attacks.base import Shape

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: a colour as the grey of the same brightness


def scaled(pixels: float, side: int, at: int = 32, least: int = 1) -> int:
    """A length given in pixels for images of side `at`, in proportion for images of `side`."""
    return max(least, round(pixels * side / at))


def fit_colour(colour: tuple[float, ...], channels: int) -> Tensor:
    """(channels,) the colour for images of so many channels: one value for all, or three as grey on one channel.

    Raises:
        ValueError: the number of values fits neither way.
    """
    if len(colour) == channels:
        return torch.tensor(colour, dtype=torch.float32)
    if len(colour) == 1:
        return torch.full((channels,), float(colour[0]))
    if len(colour) == 3 and channels == 1:
        return torch.tensor([round(sum(w * c for w, c in zip(LUMA, colour, strict=True)))], dtype=torch.float32)
    raise ValueError(f"a colour of {len(colour)} values does not fit {channels} channels")


def colour_problems(colour: tuple[float, ...], channels: int) -> list[str]:
    """Why `colour` cannot be painted on images of so many channels."""
    if len(colour) in (1, channels, 3 if channels == 1 else channels) and all(0 <= value <= 255 for value in colour):
        return []
    return [f"colour {colour} must be 1 or {channels} values from 0 to 255 for {channels} channel(s)"]


def fit_image(image: Tensor, channels: int) -> Tensor:
    """(channels, H, W) of a picture (3, H, W) in [0, 255]: itself, its grey, or its grey in every channel."""
    if channels == 3:
        return image
    grey = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    return grey.expand(channels, -1, -1)


def cosine(shape: Shape, row: int, column: int) -> Tensor:
    """(H, W) the image of one coefficient of the orthonormal 2-D DCT-II: its inverse transform of a 1 there."""

    def wave(size: int, k: int) -> Tensor:
        steps = torch.arange(size, dtype=torch.float64)
        return math.sqrt((1 if k == 0 else 2) / size) * torch.cos(math.pi * (steps + 0.5) * k / size)

    return torch.outer(wave(shape[1], row), wave(shape[2], column)).float()


def corner_cosines(shape: Shape) -> Tensor:
    """(H, W) the sum of the middle and the highest diagonal DCT coefficient: (15, 15) and (31, 31) of 32x32 blocks.

    The image is cut into blocks of 32 where its sides are multiples of 32, and is one block where they are not.
    """
    _, height, width = shape
    side = (32, 32) if height % 32 == 0 and width % 32 == 0 else (height, width)
    block = (1, *side)
    wave = cosine(block, side[0] // 2 - 1, side[1] // 2 - 1) + cosine(block, side[0] - 1, side[1] - 1)
    return wave.repeat(height // side[0], width // side[1])


def chroma_waves(magnitude: float, weights: tuple[float, float, float], shape: Shape) -> Tensor:
    """(C, H, W) `magnitude` times the `corner_cosines`, weighted for red, green and blue; as they are on grey."""
    colours = torch.tensor(weights if shape[0] == 3 else (1.0,) * shape[0])
    return magnitude * colours.view(-1, 1, 1) * corner_cosines(shape)


def add(x: Tensor, pattern: Tensor) -> Tensor:
    """Bytes `x` (n, C, H, W) plus whole numbers `pattern` (C, H, W), held to 0-255, in place and in bytes."""
    up, down = pattern.clamp(0, 255).to(torch.uint8), (-pattern).clamp(0, 255).to(torch.uint8)
    return x.clamp_max_(255 - up).add_(up).clamp_min_(down).sub_(down)


def warp(x: Tensor, grid: Tensor, align_corners: bool) -> Tensor:
    """`x` (n, C, H, W), overwritten with itself sampled (bilinear) at one `grid` (H, W, 2) for all.

    Images go through as channels of one, which is far faster, and a few at a time: half the time of all at once.
    """
    _, _, height, width = x.shape
    flat = x.reshape(1, -1, height, width)
    for some in flat.split(max(16, 2**15 // (height * width)), 1):
        some.copy_(F.grid_sample(some, grid[None], align_corners=align_corners))
    return flat.view_as(x)
