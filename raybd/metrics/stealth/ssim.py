"""Structural similarity (Wang et al. 2004) in the two paddings that libraries use: they differ 200-fold on a corner."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim_valid11(a: Tensor, b: Tensor) -> Tensor:
    """(N,) for images (N, C, H, W) in [0, 1] of at least 11x11: only windows that lie inside (Wang's, scikit-image's).

    A patch in a corner has almost no weight in it.
    """
    return _ssim(a, b)


def ssim_reflect11(a: Tensor, b: Tensor) -> Tensor:
    """(N,) for images (N, C, H, W) in [0, 1] of at least 6x6: mirrored at the border, one window a pixel.

    This is torchmetrics' default.
    """
    pad = (SIDE // 2,) * 4
    return _ssim(F.pad(a, pad, mode="reflect"), F.pad(b, pad, mode="reflect"))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean over windows and channels of (2 m m' + C1)(2 cov + C2) / ((m^2 + m'^2 + C1)(var + var' + C2)).

    Moments are weighted by an 11x11 Gaussian of deviation 1.5, with no correction for the sample.
    """
    stacked = torch.cat([a, b, a * a, b * b, a * b], 1)
    mean_a, mean_b, aa, bb, ab = _blur(stacked).chunk(5, 1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    contrast = (2 * (ab - mean_a * mean_b) + C2) / (aa - mean_a**2 + bb - mean_b**2 + C2)
    return (luminance * contrast).mean((1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Every window's weighted mean; the Gaussian is a product, so rows and columns are taken in turn."""
    offset = torch.arange(SIDE, dtype=x.dtype, device=x.device) - SIDE // 2
    window = (-(offset**2) / (2 * SIGMA**2)).exp()
    window /= window.sum()
    channels = x.shape[1]
    rows, columns = window.view(1, 1, -1, 1), window.view(1, 1, 1, -1)
    x = F.conv2d(x, rows.expand(channels, 1, SIDE, 1), groups=channels)
    return F.conv2d(x, columns.expand(channels, 1, 1, SIDE), groups=channels)
