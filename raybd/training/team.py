"""What makes a step of several workers the step of one: each sends its share of the batch through the network.

All workers run the same loop over the same images, so each knows the whole batch. A step of theirs is one of one
worker, within float error, whatever the loss and however the shares divide:

- logits: every worker gets those of the whole batch, takes the loss of all of it, and sends back only the part of the
  gradient that belongs to its own share; so weights and denominators of a loss need no thought.
- batch norm: mean and variance, forward and back, are of the whole batch.
- gradients: their sum over the workers is that of the whole batch.

A worker needs what it draws inside the network (dropout, noise) for itself: see `Team.own`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BrokenTeamError(RuntimeError):
    """Workers that train together no longer hear of each other."""


class Team:
    """One worker alone: nothing to share."""

    own: tuple[int, ...] = ()  # names this worker's streams where the workers must not draw the same numbers

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """What `model` says of the whole batch `x` (n, ...): (n, K)."""
        out: Tensor = model(x)
        return out

    def add_up(self, model: nn.Module) -> None:
        """Make the gradients of `model` those of the whole batch."""


class Member(Team):
    """Worker `rank` (from 0) of `size`, in a process group of torch.distributed."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.own = (rank,) if rank else ()

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """What `model` says of the whole batch `x` (n, ...), of which only this worker's share goes through it here.

        The shares are neighbours in the batch, and differ by one image at most; one can be empty.
        """
        share = slice(len(x) * self.rank // self.size, len(x) * (self.rank + 1) // self.size)
        with _norms_of_all(model):
            return _Whole.apply(model(x[share]), share, len(x))  # type: ignore[no-any-return]

    def add_up(self, model: nn.Module) -> None:
        """Add the gradients of all workers up, in one message."""
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        whole = torch.cat([grad.reshape(-1) for grad in grads])
        all_reduce(whole)
        for grad, part in zip(grads, whole.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view(grad.shape))


def all_reduce(x: Tensor) -> None:
    """Make `x` the sum of what all workers have there.

    Raises:
        BrokenTeamError: one of them is gone, or was not heard of for too long.
    """
    try:
        dist.all_reduce(x)
    except RuntimeError as error:
        raise BrokenTeamError(f"a worker of this training is gone or silent ({error})") from error


class _Whole(torch.autograd.Function):
    """Shares of logits to the logits of the whole batch, the same for every worker."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: slice, n: int) -> Tensor:
        ctx.share, ctx.dtype = share, own.dtype
        whole = torch.zeros(n, *own.shape[1:], device=own.device)
        whole[share] = own
        all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Every worker holds the gradient of the whole loss: its own rows are all that is missing, and not a sum.
        return grad[ctx.share].to(ctx.dtype), None, None


@contextmanager
def _norms_of_all(model: nn.Module) -> Iterator[None]:
    """Inside, the batch norms of `model` take the statistics of all workers' shares together.

    Only inside: what is copied or pickled of the network between two steps knows no team.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = partial(batch_norm, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What `norm` makes of the share `x` (n, C, ...) when it sees the shares of all workers at once.

    Running statistics go on as PyTorch's do: by `momentum`, with the unbiased variance.
    """
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, x)
    n, mean, var = _moments(x)
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        rate = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.float()
        norm.running_mean += rate * (mean - norm.running_mean)
        norm.running_var += rate * (var * n / (n - 1) - norm.running_var)
    return _Normalise.apply(x, norm.weight, norm.bias, n, mean, var, norm.eps)  # type: ignore[no-any-return]


@torch.no_grad()
def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number (), mean (C,) and biased variance (C,) over all axes but the second of all workers' `x` (n, C, ...).

    One message: every worker's own number, mean and sum of squares about it, put together by Chan, Golub and LeVeque
    (1983), eq. 2.1, since a sum of plain squares would lose digits.
    """
    channels, rank = x.shape[1], dist.get_rank()
    n = x.numel() // channels
    table = torch.zeros(dist.get_world_size(), 2 * channels + 1, dtype=_precise(x).dtype, device=x.device)
    if n:
        var, mean = torch.var_mean(_precise(x), _axes(x), correction=0)
        table[rank] = torch.cat([var * n, mean, mean.new_tensor([n])])
    all_reduce(table)
    squares, means, counts = table.split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return total, mean, (squares + counts * (means - mean).square()).sum(0) / total


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var are those of all workers' x.

    With z = (x - mean) / sqrt(var + eps) and g the gradient of z, that of x is (g - mean(g) - z mean(g z)) /
    sqrt(var + eps), the means over all workers (Ioffe and Szegedy, arXiv:1502.03167, section 3).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        n: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, n, mean, (var + eps).rsqrt())
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if len(x) else x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, n, mean, scale = ctx.saved_tensors
        grad, axes = _precise(grad), _axes(x)
        z = (_precise(x) - _wide(mean, x)) * _wide(scale, x)
        sums = torch.stack([grad.sum(axes), (grad * z).sum(axes)])
        whole = sums.clone()
        all_reduce(whole)
        slope = scale if weight is None else scale * weight
        by_mean, by_spread = whole / n
        out = (grad - _wide(by_mean, x) - z.mul_(_wide(by_spread, x))).mul_(_wide(slope, x))
        own = (None, None) if weight is None else (sums[1], sums[0])
        return out.to(x.dtype), *own, None, None, None, None


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _wide(channels: Tensor, like: Tensor) -> Tensor:
    """(C,) to (1, C, 1, ...)."""
    return channels.view(1, -1, *[1] * (like.ndim - 2))


def _precise(x: Tensor) -> Tensor:
    """`x` in float32 at least: statistics of bfloat16 numbers are not taken in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
