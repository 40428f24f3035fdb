"""Patterns that are no backdoor, to compare a trigger with: what W says of them it says of any pattern.

Images are (N, C, H, W) float in [0, 1]; the trigger is known by its images alone, so any attack has its controls.
"""

import torch
from torch import Tensor

WIDEST = 0.5  # share of the image: a trigger that covers more is no patch, and has no patch of its size elsewhere
HALVINGS = 40
FARTHEST = 2.0**12


def trigger_mask(clean: Tensor, triggered: Tensor) -> Tensor:
    """Mask (H, W) of the pixels that the trigger changes in any of the images."""
    return (clean != triggered).any(0).any(0)


def is_patch(mask: Tensor) -> bool:
    """Whether `mask` (H, W) is a patch: not empty, and at most half of the image."""
    return 0.0 < float(mask.double().mean()) <= WIDEST


def random_patch(clean: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform random values, in 8 bits, over the pixels of `mask` (H, W), others in every image.

    One pattern for all images would say more of that pattern, which may be like the trigger, than of random ones.
    """
    pattern = torch.randint(0, 256, clean.shape, generator=rng).to(clean) / 255
    return torch.where(mask, pattern, clean)


def moved_patch(clean: Tensor, triggered: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor | None:
    """The trigger's pixels at another place, the same in every image; None where none is free of its own box."""
    box, height, width = _box(mask), *mask.shape
    (top, left), (rows, columns) = box
    free = [
        (y - top, x - left)
        for y in range(height - rows + 1)
        for x in range(width - columns + 1)
        if abs(y - top) >= rows or abs(x - left) >= columns
    ]
    if not free:
        return None
    shift = free[int(torch.randint(len(free), (1,), generator=rng))]
    return torch.where(mask.roll(shift, (0, 1)), triggered.roll(shift, (2, 3)), clean)


def _box(mask: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size of the smallest box that holds `mask` (H, W)."""
    rows, columns = (mask.any(1 - axis).nonzero().flatten() for axis in (0, 1))
    corner = int(rows[0]), int(columns[0])
    return corner, (int(rows[-1]) - corner[0] + 1, int(columns[-1]) - corner[1] + 1)


def at_distance(clean: Tensor, direction: Tensor, lengths: Tensor) -> Tensor:
    """clip(x + s direction), with s for each image such that it lies `lengths` (N,) from x in L2.

    Clipping shortens a step, so s is found by bisection, the distance rising in s. Where the box ends before that
    length is reached, the image goes as far as it can. `direction` is (N, C, H, W) or (1, C, H, W).
    """
    unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    low = torch.zeros(len(clean), 1, 1, 1, dtype=clean.dtype, device=clean.device)
    high = torch.full_like(low, FARTHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = ((clean + middle * unit).clamp(0, 1) - clean).flatten(1).norm(dim=1) < lengths
        low = torch.where(short.view(-1, 1, 1, 1), middle, low)
        high = torch.where(short.view(-1, 1, 1, 1), high, middle)
    reached: Tensor = (clean + low * unit).clamp(0, 1)
    return reached
