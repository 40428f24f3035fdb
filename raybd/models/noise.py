"""Gaussian noise inside a network: it makes the information between image and features finite.

The sites are those of the information-bottleneck paper (arXiv:2511.21923): after every ReLU of a block, not after
the stem's, and once more between the pooled features and the head. The noise is on in training and in evaluation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.seeds import derive

_sharing: ContextVar[tuple[int, int] | None] = ContextVar("sharing", default=None)
_silent: ContextVar[bool] = ContextVar("silent", default=False)


def activation(noise: float) -> nn.Module:
    """ReLU, followed by noise of standard deviation `noise` unless that is 0."""
    return NoisyReLU(noise) if noise else nn.ReLU(inplace=True)


class NoisyReLU(nn.Module):
    """max(x, 0) + noise * N(0, 1), in the shape of x."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """The noisy activation of `x`, which is overwritten."""
        return add_noise(F.relu(x, inplace=True), self.noise)

    def extra_repr(self) -> str:
        """The noise, where the module is printed."""
        return f"noise={self.noise:g}"


def add_noise(x: Tensor, noise: float) -> Tensor:
    """`x` (N, ...) + noise * N(0, 1), from the default generator of its device; see `silenced` and `shared`."""
    if _silent.get():
        return x
    if (sharing := _sharing.get()) is None:
        return torch.add(x, _normal(len(x), x), alpha=noise)
    images, draws = sharing
    fields = _normal(len(x) // images, x).unflatten(0, (-1, 1, draws))
    return torch.add(x.unflatten(0, (-1, images, draws)), fields, alpha=noise).flatten(0, 2)


def _normal(n: int, like: Tensor) -> Tensor:
    """N(0, 1) for `n` of the things that `like` (N, ...) holds, drawn in the order in which they lie in memory.

    Filling a channels_last tensor by its logical order takes nine times as long on a CPU.
    """
    made = torch.empty(n, *like.shape[1:], dtype=like.dtype, device=like.device)
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        _, channels, height, width = like.shape
        return made.view(n, height, width, channels).normal_().permute(0, 3, 1, 2)
    return made.normal_()


@contextmanager
def own_draws(seed: int, *names: str | int, device: torch.device) -> Iterator[None]:
    """Inside, the default generators of the CPU and of `device` draw the stream `names` of trial seed `seed`.

    Afterwards they go on as if nothing had been drawn: a measurement never shifts a training.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(derive(seed, *names))
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


@contextmanager
def silenced() -> Iterator[None]:
    """Inside, every noise is 0."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def shared(images: int, draws: int) -> Iterator[None]:
    """Inside, batches of `images` * `draws` * k rows, draws fastest, share each draw's noise among `images` images.

    The draws of one image stay independent, and so does every marginal law; it saves most of the random numbers,
    which cost a CPU as much as a small network itself.
    """
    token = _sharing.set((images, draws))
    try:
        yield
    finally:
        _sharing.reset(token)
