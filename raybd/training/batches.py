"""Batches: order, augmentation, and conversion to a network's input."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.training.config import TrainConfig


def in_batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in batches; a single last image is left out of the epoch, for batch norm cannot take it."""
    batches = list(order.split(size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def augment(x: Tensor, crop: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Each image of `x` (N, C, H, W) moved by up to `crop` pixels over black and mirrored, each by its own draw."""
    n, _, height, width = x.shape
    if crop:
        windows = F.pad(x, (crop, crop, crop, crop)).unfold(2, height, 1).unfold(3, width, 1)
        down, right = torch.randint(0, 2 * crop + 1, (2, n), generator=rng, device=x.device)
        x = windows[torch.arange(n, device=x.device), :, down, right]
    if flip:
        mirrored = torch.rand(n, generator=rng, device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


def prepare(x: Tensor, train_config: TrainConfig) -> Tensor:
    """Bytes to what models see: (N, C, H, W) float32 in [0, 1], in the memory format of `train_config`."""
    return x.to(memory_format=memory_format(train_config)).float().div_(255)


def memory_format(train_config: TrainConfig) -> torch.memory_format:
    """PyTorch's name for the memory format of `train_config`."""
    return torch.channels_last if train_config.memory_format == "channels_last" else torch.contiguous_format


def autocast(train_config: TrainConfig, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where `train_config` wants it on `device`, else a context that does nothing."""
    wanted = train_config.precision == "bf16" or (train_config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
