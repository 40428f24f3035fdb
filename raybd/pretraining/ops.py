"""Image operations of random views: (N, C, H, W) float in [0, 1] to the same, with parameters for each image."""

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, rounded as in torchvision and Pillow


def crop_resize(x: Tensor, box: Tensor) -> Tensor:
    """Each box (N, 4: top, left, height, width, whole pixels) of `x` resized to the size of `x`, bilinearly.

    Pixel i of n lies at (i + 1/2) * size / n - 1/2 in a box of `size` pixels, and nothing outside the box is read.
    """
    height, width = x.shape[2:]
    down = _interpolation(height, box[:, 0], box[:, 2])
    right = _interpolation(width, box[:, 1], box[:, 3])
    # a bilinear map that keeps rows and columns apart is two products of matrices
    return down[:, None] @ x @ right[:, None].transpose(2, 3)


def _interpolation(n: int, start: Tensor, size: Tensor) -> Tensor:
    """(N, n, n) weights: row i holds the share of each of n pixels in pixel i of the resized box."""
    pixels = torch.arange(n, device=start.device)
    at = (pixels + 0.5) * (size / n)[:, None] - 0.5
    at = at.clamp(min=0).minimum(size[:, None] - 1) + start[:, None]
    return (1 - (at[:, :, None] - pixels).abs()).clamp_(min=0)


def affine(x: Tensor, settings: Tensor) -> Tensor:
    """`x` sheared along its rows, rotated and scaled about its middle, then moved; bilinear, black outside.

    `settings` (N, 5): degrees of rotation (clockwise) and of shear, scale, pixels to the right and down. A point p
    from the middle goes to s R(angle) [[1, -tan(shear)], [0, 1]] p + t, as in torchvision; pixels ask the inverse.
    """
    angle, shear = settings[:, :2].deg2rad().unbind(1)
    scale, right, down = settings[:, 2:].unbind(1)
    cos, sin, tan = angle.cos() / scale, angle.sin() / scale, shear.tan()
    across = torch.stack([cos - tan * sin, sin + tan * cos], 1)  # the two rows of the inverse
    along = torch.stack([-sin, cos], 1)
    inverse = torch.stack([across, along], 1)
    offset = -(inverse @ torch.stack([right, down], 1)[:, :, None])
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], device=x.device)
    theta = torch.cat([inverse * half, offset], 2) / half[:, None]  # grid_sample counts in half images
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def colour_jitter(x: Tensor, settings: Tensor) -> Tensor:
    """`x` with other brightness, contrast, saturation and hue, in this order.

    `settings` (N, 4): three factors (1 changes nothing) and turns of the hue (0 changes nothing); the last two
    do nothing to images of one channel. An order for each image, as in torchvision's ColorJitter, would
    cost as many passes as there are orders.
    """
    brightness, contrast, saturation, turns = (s[:, None, None, None] for s in settings.unbind(1))
    x = (x * brightness).clamp(0, 1)
    x = _blend(x, greyscale(x).mean((1, 2, 3), keepdim=True), contrast)
    if x.shape[1] != 3:
        return x
    return adjust_hue(_blend(x, greyscale(x), saturation), turns)


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (x * share + other * (1 - share)).clamp_(0, 1)


def greyscale(x: Tensor) -> Tensor:
    """The luma (N, 1, H, W) of three channels; anything else as it is."""
    if x.shape[1] != 3:
        return x
    weights = torch.tensor(LUMA, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def adjust_hue(x: Tensor, turns: Tensor) -> Tensor:
    """The colours `x` (N, 3, H, W) with the hue turned by `turns` (N, 1, 1, 1), value and saturation (HSV) kept.

    With v the largest and c the range of the three, and hue h in sixths of a turn, the channels are
    v - c max(0, min(k, 4 - k, 1)), k = (n + h) mod 6, n = 5, 3, 1.
    """
    value, chroma = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    safe = chroma.clamp(min=torch.finfo(x.dtype).tiny)
    of_red, of_green, of_blue = (green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4
    hue = torch.where(value == red, of_red, torch.where(value == green, of_green, of_blue))
    n = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (n + hue + 6 * turns).remainder(6)
    return value - chroma * k.minimum(4 - k).clamp(0, 1)


def erase(x: Tensor, corner: Tensor, side: int) -> Tensor:
    """`x` with a black square of `side` pixels, its top left at `corner` (N, 2: row, column)."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
    in_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + side)
    in_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + side)
    return x.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
