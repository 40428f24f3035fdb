"""What is read off the last maps of a network: Grad-CAM, and how far the trigger moves each channel."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.models.batch_size import batch_size, batched

BATCH = 256  # at most


def grad_cam(model: nn.Module, x: Tensor) -> Tensor | None:
    """(N, H, W), at least 0: where in the images `x` (N, C, H, W) in [0, 1] that is on which their class rests.

    Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv:1610.02391), eq. 1 and 2: relu(sum_k a_k A_k) with A_k the last maps
    of more than one position and a_k the mean over positions of the slope of the logit of the predicted class;
    enlarged bilinearly. None where the network makes no maps.
    """
    with torch.enable_grad(), _last_maps(model) as kept:
        logits = model(x.detach().clone().requires_grad_())
        if not kept:
            return None
        top = logits.gather(1, logits.argmax(1, keepdim=True)).sum()
        (slope,) = torch.autograd.grad(top, kept)
    maps = (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    return F.interpolate(maps.detach(), size=x.shape[2:], mode="bilinear").squeeze(1)


@torch.no_grad()
def channel_change(model: nn.Module, clean: Tensor, triggered: Tensor) -> Tensor | None:
    """(K,): for each channel of the last maps the mean over images of |A_k(triggered) - A_k(clean)|, Euclidean.

    The trigger-activated change of Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022
    (arXiv:2208.03111), eq. 3. None where the network makes no maps.
    """
    before, after = _maps(model, clean), _maps(model, triggered)
    return None if before is None or after is None else (after - before).flatten(2).norm(dim=2).mean(0)


def _maps(model: nn.Module, x: Tensor) -> Tensor | None:
    """(N, K, h, w) the last maps of the images `x` (N, C, H, W) in [0, 1]."""

    def passed(some: Tensor) -> Tensor:
        with _last_maps(model) as kept:
            model(some)
        return kept[0].clone() if kept else some.new_zeros(len(some), 0)

    maps = batched(passed, x, size=batch_size(model, x, BATCH))
    return maps if maps.numel() else None


@contextmanager
def _last_maps(model: nn.Module) -> Iterator[list[Tensor]]:
    """In its block a pass of `model` leaves the last maps of more than one position in the list; nothing without."""
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
            kept[:] = [output]

    hooks = [part.register_forward_hook(hook) for part in model.modules() if not any(part.children())]
    try:
        yield kept
    finally:
        for one in hooks:
            one.remove()
