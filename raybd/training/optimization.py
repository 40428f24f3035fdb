"""Optimisers and learning-rate schedules."""

import math

import torch
from torch import nn

from raybd.training.config import TrainConfig

WARM_UP = 0.3  # share of a one-cycle schedule that rises


def optimizer_of(model: nn.Module, train_config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `train_config` for all weights of `model`."""
    # One fused kernel for all parameters: a small network's step is mostly the optimiser's own overhead.
    if train_config.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), lr=train_config.learning_rate, weight_decay=train_config.weight_decay, fused=True
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=train_config.learning_rate,
        momentum=train_config.momentum,
        weight_decay=train_config.weight_decay,
        fused=True,
    )


def learning_rate(train_config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate at `step` (from 0) of `steps`.

    cosine: peak (1 + cos(pi step / steps)) / 2 (Loshchilov and Hutter, arXiv:1608.03983, without restarts);
    one_cycle: cosine from peak / 25 up over the first 30 % and down to peak / 250,000 (Smith and Topin,
    arXiv:1708.07120, with PyTorch's defaults and a constant momentum).
    """
    peak, top = train_config.learning_rate, WARM_UP * steps - 1
    if train_config.schedule == "constant":
        return peak
    if train_config.schedule == "cosine":
        return _cosine(peak, 0.0, step / steps)
    if step <= top:
        return _cosine(peak / 25, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, peak / 250_000, (step - top) / max(steps - 1 - top, 1e-9))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
