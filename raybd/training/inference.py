"""Logits of a network, in batches."""

import torch
from torch import Tensor, nn

from raybd.models.batch_size import batch_size, batched
from raybd.training.batches import autocast, prepare
from raybd.training.config import TrainConfig

CACHED = 2**15  # pixels of a batch that is predicted on a CPU: what a small network makes of them fits its cache


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor, train_config: TrainConfig) -> Tensor:
    """Logits (N, K) float32 of `model` in evaluation mode for the bytes `x` (N, C, H, W)."""
    model.eval()
    size = batch_size(model, x, _predicted_at_once(x))
    with autocast(train_config, x.device):
        return batched(lambda some: model(prepare(some, train_config)).float(), x, size=size)


def _predicted_at_once(x: Tensor) -> int:
    return 512 if x.is_cuda else max(64, min(256, CACHED // (x.shape[-2] * x.shape[-1])))
