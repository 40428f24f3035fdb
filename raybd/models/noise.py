"""Gaussian noise layers of a network: they make the mutual information between image and features finite.

The sites are those of the information-bottleneck paper (arXiv:2511.21923): after every ReLU of a block, not after
the stem's, and once more between the pooled features and the head. The noise is on in training and in evaluation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_shared: ContextVar[tuple[int, int, Sequence[torch.Generator]] | None] = ContextVar("shared", default=None)
_disabled: ContextVar[bool] = ContextVar("disabled", default=False)


def activation(noise: float) -> nn.Module:
    """The activation module: a ReLU, followed by noise of standard deviation `noise` unless that is 0."""
    return NoisyReLU(noise) if noise else nn.ReLU(inplace=True)


class NoisyReLU(nn.Module):
    """A ReLU followed by Gaussian noise: max(x, 0) + noise * N(0, 1), in the shape of x."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """The noisy activation of `x`, which is overwritten."""
        return add_noise(F.relu(x, inplace=True), self.noise)

    def extra_repr(self) -> str:
        """The noise, where the module is printed."""
        return f"noise={self.noise:g}"


class Noise(nn.Module):
    """Gaussian noise: x + noise * N(0, 1), in the shape of x."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """`x` with noise."""
        return add_noise(x, self.noise)

    def extra_repr(self) -> str:
        """The noise, where the module is printed."""
        return f"noise={self.noise:g}"


def add_noise(x: Tensor, noise: float) -> Tensor:
    """`x` (N, ...) + noise * N(0, 1), by its device's default generator; see `without_noise`, `shared_noise`."""
    if _disabled.get():
        return x
    if (shared := _shared.get()) is None:
        return torch.add(x, _normal(x.shape[0], x), alpha=noise)
    images, draws, generators = shared
    parts = [_normal(draws, x, rng) for rng in generators] or [_normal(x.shape[0] // images, x)]
    fields = (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, (-1, 1, draws))
    return torch.add(x.unflatten(0, (-1, images, draws)), fields, alpha=noise).flatten(0, 2)


def _normal(n: int, like: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """`n` samples of N(0, 1) in the shape of one row of `like` (N, ...), drawn in the order of its memory layout.

    Filling a channels_last tensor by its logical order takes nine times as long on a CPU.
    """
    made = torch.empty(n, *like.shape[1:], dtype=like.dtype, device=like.device)
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        _, channels, height, width = like.shape
        return made.view(n, height, width, channels).normal_(generator=rng).permute(0, 3, 1, 2)
    return made.normal_(generator=rng)


@contextmanager
def without_noise() -> Iterator[None]:
    """A context in which every noise layer adds nothing."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


@contextmanager
def shared_noise(images: int, draws: int, generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """A context in which batches of `images` * `draws` * k rows, draws fastest, share each draw among `images` images.

    The draws of one image stay independent, and so does every marginal law; it saves most of the random numbers,
    which cost a CPU as much as a small network itself. Each group of `images` draws from a generator of its own where
    there are some: its noise does not hang on the groups beside it then.
    """
    token = _shared.set((images, draws, generators))
    try:
        yield
    finally:
        _shared.reset(token)
