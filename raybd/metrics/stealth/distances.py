"""Distances of triggered images from clean ones: (N, C, H, W) in [0, 1] -> (N,)."""

import math

import torch
from torch import Tensor

ROUNDING = 1e-20  # of the energy: less is what double precision leaves of a constant
PERFECT = 100.0  # dB: the PSNR of equal images, which has no end


def changed_pixels(clean: Tensor, triggered: Tensor) -> Tensor:
    """l0: positions of which any channel differs."""
    return (clean != triggered).any(1).flatten(1).sum(1).double()


def l1(clean: Tensor, triggered: Tensor) -> Tensor:
    """Sum of |x' - x| over pixels and channels."""
    return (triggered - clean).flatten(1).abs().sum(1)


def l2(clean: Tensor, triggered: Tensor) -> Tensor:
    """sqrt(sum (x' - x)^2)."""
    length: Tensor = (triggered - clean).flatten(1).norm(dim=1)
    return length


def linf(clean: Tensor, triggered: Tensor) -> Tensor:
    """max |x' - x|."""
    return (triggered - clean).flatten(1).abs().amax(1)


def mse(clean: Tensor, triggered: Tensor) -> Tensor:
    """Mean of (x' - x)^2 over pixels and channels."""
    return (triggered - clean).flatten(1).square().mean(1)


def psnr(clean: Tensor, triggered: Tensor) -> Tensor:
    """10 log10(1 / MSE) in dB, at most 100, which equal images have."""
    return (-10 / math.log(10) * mse(clean, triggered).log()).clamp_max(PERFECT)


def high_frequency(x: Tensor) -> Tensor:
    """Share of the energy (without the mean's) in the upper half of the frequencies of either direction.

    Of the orthonormal type-2 DCT of each channel: sum of squares where row >= H / 2 or column >= W / 2, over the sum
    of all but (0, 0); nan for a constant image. Patches leave traces there (Zeng et al., arXiv 2104.03413).
    """
    height, width = x.shape[2:]
    x = x.double()
    energy = (_dct(height, x) @ x @ _dct(width, x).T).square().sum(1)
    whole = energy.sum((1, 2))
    energy[:, 0, 0] = 0
    varied = energy.sum((1, 2))
    low = energy[:, : -(-height // 2), : -(-width // 2)].sum((1, 2))
    return torch.where(varied > ROUNDING * whole, (varied - low) / varied.clamp_min(1e-300), math.nan)


def _dct(n: int, like: Tensor) -> Tensor:
    """The orthonormal type-2 DCT as a matrix (n, n): row k is the cosine of frequency k."""
    index = torch.arange(n, dtype=like.dtype, device=like.device)
    matrix = (math.pi / n * (index + 0.5) * index[:, None]).cos() * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix
