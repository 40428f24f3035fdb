"""Norms of input gradients, per image; no parameter's .grad is touched."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.models.batch_size import batch_size, batched

BATCH = 256  # at most
Objective = Callable[[Tensor, Tensor], Tensor]  # logits (N, K), labels (N,) -> (N,)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """-ln softmax(logits)_label, in nats."""
    return F.cross_entropy(logits, label, reduction="none")


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """The label's logit less the largest other one."""
    own = logits.gather(1, label[:, None])
    others = logits.scatter(1, label[:, None], -torch.inf)
    return own.squeeze(1) - others.amax(1)


def gradient_norms(model: nn.Module, x: Tensor, label: Tensor, objective: Objective) -> Tensor:
    """(N,) L2 norm of d objective / d x at each of `x` (N, C, H, W) in [0, 1]; `model` in evaluation mode."""
    size = batch_size(model, x, BATCH, gradients=True)
    return batched(lambda some, of: _norms(model, some, of, objective), x, label, size=size)


def _norms(model: nn.Module, x: Tensor, label: Tensor, objective: Objective) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(objective(model(x), label).sum(), x)[0]
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms
