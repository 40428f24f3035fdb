"""Networks of an attacker as triggers: weights in one vector, images passed through in batches of one size."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

BATCH = 16  # images that pass at once; always so many, so that a larger rate changes no pixel of a smaller one


def sketch(make: Callable[[], nn.Module]) -> nn.Module:
    """The network of `make`, whose weights are of no use; the generator of random numbers stays where it is."""
    with torch.random.fork_rng(devices=[]):
        return make()


def to_vector(network: nn.Module) -> Tensor:
    """(D,) float32 on the CPU: all weights and running statistics of `network`, in the order of its state_dict."""
    return torch.cat([part.detach().flatten().cpu() for part in _parts(network)])


def from_vector(network: nn.Module, vector: Tensor) -> nn.Module:
    """The sketched `network` with the weights `vector` (D,), on its device and in evaluation mode."""
    if len(vector) != size_of(network):
        raise ValueError(f"{len(vector)} weights for a network of {size_of(network)}")
    start, values = 0, vector.cpu()
    for part in _parts(network):
        part.copy_(values[start : start + part.numel()].view(part.shape))
        start += part.numel()
    return network.to(vector.device).eval().requires_grad_(False)


def size_of(network: nn.Module) -> int:
    """D, of a network that may be a sketch."""
    return sum(part.numel() for part in _parts(network))


def _parts(network: nn.Module) -> Iterator[Tensor]:
    return (part for part in network.state_dict().values() if part.is_floating_point())


@torch.no_grad()
def passed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of `x` (n, C, H, W), 16 images at a time, the last 16 filled up by repetition."""
    found = []
    for some in x.split(BATCH):
        fill = torch.arange(BATCH, device=x.device) % len(some)
        found.append(function(some[fill].contiguous())[: len(some)])
    return torch.cat(found)


def as_bytes(x: Tensor) -> Tensor:
    """`x` in [0, 1], rounded to 255ths as in a file; the gradient is that of `x`."""
    return x + ((255 * x).round() / 255 - x).detach()
