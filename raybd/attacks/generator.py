"""The generators of input-aware triggers (arXiv:2010.08138), their losses, and the training of the one of masks."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks.surrogate import SEED
from raybd.models.base import Shape
from raybd.seeds import forked_rng, stream
from raybd.types import Images

EPSILON = 1e-7  # these, and the layers below, as in the authors' code
BETAS = (0.5, 0.9)  # of Adam
MASK_BATCH, MASK_EPOCHS = 128, 25
MASK_STEPS = 2000  # at most, which are fewer epochs of more than 10,000 images: ours
MASK_FALLS = (10 / 25, 20 / 25)  # of its training: there its learning rate falls to a tenth


class Generator(nn.Module):
    """(n, C, H, W) in [0, 1] to (n, `out`, H, W) in (0, 1): an encoder and a decoder of 3x3 convolutions.

    Two levels of 16 and 32 channels; three of 32, 64, 128 from 32 pixels on.
    """

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        channels = (32, 64, 128) if min(shape[1:]) >= 32 else (16, 32)
        before, last = (shape[0], *channels), channels[-1]
        self.down = nn.ModuleList(nn.Sequential(_block(a, b), _block(b, b)) for a, b in itertools.pairwise(before))
        self.middle = _block(last, last)
        after = itertools.pairwise((*channels[::-1], out))
        self.up = nn.ModuleList(nn.Sequential(_block(a, a), _block(a, b, b != out)) for a, b in after)

    def forward(self, x: Tensor) -> Tensor:
        """tanh(.) / 2 + 1/2 of the decoder."""
        x, sizes = 2 * x - 1, []
        for level in self.down:
            x = level(x)
            sizes.append((x.shape[2], x.shape[3]))
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for level, size in zip(self.up, reversed(sizes), strict=True):
            x = level(enlarged(x, size))
        return x.tanh() / (2 + EPSILON) + 0.5


def _block(before: int, after: int, relu: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after, momentum=0.05)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` (n, C, h, w) at `size`, bilinear with aligned corners, as two products: PyTorch's own has no repeatable
    gradient on a GPU."""
    down, across = (_weights(old, new).to(x.device) for old, new in zip(x.shape[2:], size, strict=True))
    return torch.einsum("ai,ncij,bj->ncab", down, x, across)


def _weights(old: int, new: int) -> Tensor:
    """(new, old): what each old pixel of a row counts for in each new one."""
    places = torch.linspace(0, old - 1, new)
    return (1 - (places[:, None] - torch.arange(old)).abs()).clamp_min(0)


def threshold(x: Tensor) -> Tensor:
    """tanh(20 x - 10) / 2 + 1/2: what a mask makes of its generator's output."""
    return (20 * x - 10).tanh() / (2 + EPSILON) + 0.5


def distance(x: Tensor, other: Tensor) -> Tensor:
    """(n,) root mean square differences of `x` and `other` (n, C, H, W); of equal ones 0, with a gradient of 0."""
    square = (x - other).square().mean((1, 2, 3))
    equal = square == 0  # where a square root's gradient is infinite
    return square.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)


def diversity_loss(x: Tensor, other: Tensor, made: Tensor, made_other: Tensor) -> Tensor:
    """L_div (): mean of |x - x'| / (|g(x) - g(x')| + 1e-7); large where unlike images have triggers alike."""
    return (distance(x, other) / (distance(made, made_other) + EPSILON)).mean()


def train_mask(train: Images, density: float, lambda_norm: float, lambda_div: float, learning_rate: float) -> Generator:
    """The generator of masks: lambda_norm mean max(0, m - density) + lambda_div L_div over all of `train`."""
    device = train.x.device
    with forked_rng(SEED, "mask", device=device):
        network = Generator(train.shape, 1).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=BETAS)
        epochs = max(1, min(MASK_EPOCHS, MASK_STEPS * MASK_BATCH // len(train)))
        for epoch in range(epochs):
            fallen = sum(epoch / epochs >= share for share in MASK_FALLS)
            optimizer.param_groups[0]["lr"] = learning_rate * 0.1**fallen
            for first, second in _pairs(train, epoch):
                one, other = threshold(network(first)), threshold(network(second))
                loss = lambda_norm * F.relu(one - density).mean()
                loss = loss + lambda_div * diversity_loss(first, second, one, other)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network


def _pairs(train: Images, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `train` beside batches in another order, in [0, 1]."""
    rng = stream(SEED, "mask", epoch)
    orders = [torch.randperm(len(train), generator=rng).to(train.y.device).split(MASK_BATCH) for _ in range(2)]
    for indices in zip(*orders, strict=True):
        first, second = (train.x[index].float() / 255 for index in indices)
        yield first, second
