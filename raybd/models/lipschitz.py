"""Lipschitz constants of the channels of a network, from its weights alone."""

import torch
from torch import Tensor, nn


def channel_lipschitz(model: nn.Module) -> dict[str, Tensor]:
    """Upper bounds of channel Lipschitz constants (UCLC; Zheng et al., arXiv 2208.03111): (C,) of every layer, by name.

    Convolution: the largest singular value of its weights as (in, height * width); linear: the norm of its row; times
    |gamma| / sqrt(variance + eps) of the batch norm that follows. Used as a ranking.
    """
    found: dict[str, Tensor] = {}
    following = norm_after(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            found[name] = torch.linalg.matrix_norm(module.weight.detach().float().flatten(2), 2)
        elif isinstance(module, nn.Linear):
            found[name] = module.weight.detach().float().norm(dim=1)
        if name in following:
            found[name] = found[name] * _gain(following[name])
    return found


def norm_after(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """For each convolution, by name, the batch norm that comes next in the model's order and has as many channels.

    It must come before the next convolution. Where a network sums paths before it normalises, as in pre-activation
    blocks, the norm is that of the sum.
    """
    found: dict[str, nn.BatchNorm2d] = {}
    last, channels = "", 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            last, channels = name, module.out_channels
        elif isinstance(module, nn.BatchNorm2d) and last and channels == module.num_features:
            found[last] = module
            last = ""
    return found


def _gain(norm: nn.BatchNorm2d) -> Tensor:
    """|gamma| / sqrt(variance + eps); a part that a batch norm does not keep counts as 1."""
    spread = torch.ones(()) if norm.running_var is None else (norm.running_var + norm.eps).sqrt()
    scale = torch.ones_like(spread) if norm.weight is None else norm.weight.detach().float().abs()
    return scale / spread.to(scale.device)
