"""Batch sizes of measurements, by the memory that a network's activations take and that is there for them.

What a measurement computes of an image does not depend on the images beside it, so batches may have any size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raybd.models.activation_memory import activation_bytes
from raybd.utils.memory import available_bytes

MOST_BYTES = 2**31  # of activations: more fills no card better
PART = 0.5  # of what is free: the rest is for the allocator's gaps and for workspaces
_limits = {"share": 1.0, "part": 1.0}  # of this process: its share of the device, and the part of its budget it takes


def set_memory_share(share: float, part: float = 1.0) -> None:
    """Let the measurements of this process fill `share` of the memory of their device (its GPU, or this machine), and
    take only a `part` of the budget that they would have."""
    _limits.update(share=share, part=part)


def memory_budget(device: torch.device) -> float:
    """Bytes that the activations of a batch may take on `device`."""
    return _limits["part"] * min(MOST_BYTES, PART * _free(device))


def batch_size(model: nn.Module, x: Tensor, most: int, gradients: bool = False) -> int:
    """Images at a time, at most `most` and at least 1, for passes of `model` over images like `x` (..., C, H, W).

    The same for every budget that has room for `most`. With `gradients` for passes forward and back.
    """
    channels, height, width = x.shape[-3:]
    dtype = x.dtype if x.dtype.is_floating_point else torch.float32
    needed = activation_bytes(model, (channels, height, width), gradients, dtype)
    return _within_budget(x.device, needed, most)


def by_image(function: Callable[..., Tensor], *columns: Tensor, copies: int) -> Tensor:
    """`function(*columns)`, a row for each image of `columns` (N, ...), of as many at a time as the memory holds.

    `copies`: of an image in double precision, that live at once in the function.
    """
    size = _within_budget(columns[0].device, 8 * copies * columns[0][:1].numel(), len(columns[0]))
    return batched(function, *columns, size=size)


def batched(
    function: Callable[..., Tensor], *columns: Tensor, size: int, heartbeat: Callable[[], None] = lambda: None
) -> Tensor:
    """`function(*columns)`, a row for each row of `columns` (N, ...), of `size` of these at a time, or of fewer where
    the memory is too small for that; `heartbeat` is called after each batch."""
    found = []
    for part in zip(*(column.split(size) for column in columns), strict=True):
        found.append(halved(function, *part))
        heartbeat()
    return torch.cat(found)


def halved(function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """`function(*columns)`, the rows of its result; where the memory is too small for that, in halves, one by one."""
    try:
        return function(*columns)
    except torch.OutOfMemoryError:
        if len(columns[0]) < 2:
            raise
    torch.cuda.empty_cache()  # outside of `except`, which would hold on to the tensors of the pass that failed
    return torch.cat([halved(function, *half) for half in zip(*(column.chunk(2) for column in columns), strict=True)])


def _within_budget(device: torch.device, needed: float, most: int) -> int:
    """Rows of `needed` bytes each that a batch on `device` may have: 1 to `most`."""
    return max(1, min(most, int(memory_budget(device) / max(1, needed))))


def _free(device: torch.device) -> float:
    """Bytes that this process may still take on `device`."""
    if device.type != "cuda":
        return _limits["share"] * available_bytes()
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0.0, min(free + unused, _limits["share"] * total - torch.cuda.memory_allocated(device)))
