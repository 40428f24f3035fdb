"""Patterns that lead to the trigger's class by search: for one image (PGD), or for all (a universal perturbation).

Gradients are taken of a sum over the images by torch.autograd.grad: no parameter gets a .grad.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.metrics.smoothing.controls import at_distance
from raybd.models.batch_size import batch_size, batched

STEPS = 40
REACH = 2.5  # all steps together, in radii: enough to leave the start and turn


def pgd(model: nn.Module, clean: Tensor, wanted: Tensor, lengths: Tensor) -> Tensor:
    """Images (N, C, H, W) `lengths` (N,) from `clean` in L2 and in [0, 1] that `model` takes for `wanted` (N,).

    Projected gradient descent on the cross-entropy of the wanted class (Madry et al., arXiv 1706.06083), targeted, in
    the L2 ball; the result is stretched to the full length, so that all patterns are compared at one norm.
    """
    change, radius = torch.zeros_like(clean), lengths.view(-1, 1, 1, 1)
    for _ in range(STEPS):
        step = -input_gradient(model, (clean + change).clamp(0, 1), wanted)
        change = change + REACH / STEPS * radius * _unit(step)
        change = (clean + change * (radius / _length(change)).clamp_max(1)).clamp(0, 1) - clean
    return at_distance(clean, change, lengths)


def universal(model: nn.Module, clean: Tensor, wanted: Tensor, length: float) -> Tensor:
    """One perturbation (1, C, H, W) of L2 `length` that leads `clean` (N, C, H, W) to `wanted` (N,) on the whole.

    The same descent as `pgd` on the mean loss over the images (Moosavi-Dezfooli et al., arXiv 1610.08401, whose
    untargeted per-image steps it replaces). `clean` are other images than those that it is measured on.
    """
    change = torch.zeros_like(clean[:1])
    for _ in range(STEPS):
        step = -input_gradient(model, (clean + change).clamp(0, 1), wanted).mean(0, keepdim=True)
        change = change + REACH / STEPS * length * _unit(step)
        change = change * (length / _length(change)).clamp_max(1)
    return change


def input_gradient(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    """The gradient (N, C, H, W) of each image's cross-entropy (nats) in its pixels."""
    size = batch_size(model, x, len(x), gradients=True)
    return batched(partial(_gradient, model), x, label, size=size)


def _gradient(model: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(model(x), label, reduction="sum")
        return torch.autograd.grad(loss, x)[0]


def _unit(x: Tensor) -> Tensor:
    return torch.div(x, _length(x))


def _length(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return length.clamp_min(1e-12).view(-1, 1, 1, 1)
