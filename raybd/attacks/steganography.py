"""The encoder and decoder of messages of `ssba`, after StegaStamp (Tancik et al. 2020), small; their training."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks.generator import enlarged
from raybd.attacks.networks import as_bytes
from raybd.attacks.surrogate import SEED
from raybd.models.base import Shape
from raybd.seeds import forked_rng, stream
from raybd.types import Images

BATCH = 64  # as in BackdoorBench
RIGHT = 0.9  # share of a batch's bits that are read right, from which the size of the change costs: as there
RAMP = 0.3  # share of the steps in which its weight rises to the whole
HIDDEN = 128  # of the decoder


class Encoder(nn.Module):
    """Bits (n, B) in {0, 1} and images (n, C, H, W) in [0, 1] to the change (n, C, H, W) that writes them in.

    The bits become an image of their own beside the image; one level of a U-Net makes the change of both.
    """

    def __init__(self, shape: Shape, bits: int, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.shape = shape
        self.dense = nn.Linear(bits, channels * height * across)
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.merged = nn.Conv2d(2 * width + 2 * channels, width, 3, padding=1)
        self.change = nn.Conv2d(width, channels, 1)

    def forward(self, bits: Tensor, x: Tensor) -> Tensor:
        """The change, of any size."""
        seen = torch.cat([self.dense(bits - 0.5).relu().view(-1, *self.shape), x - 0.5], 1)
        first = self.first(seen).relu()
        up = self.up(enlarged(self.down(first).relu(), self.shape[1:])).relu()
        merged: Tensor = self.change(self.merged(torch.cat([first, up, seen], 1)).relu())
        return merged


def decoder(shape: Shape, bits: int, width: int) -> nn.Module:
    """(n, C, H, W) in [0, 1] to (n, B) logits of the bits."""
    height, across = (-(-side // 4) for side in shape[1:])
    layers = [
        *(nn.Conv2d(shape[0], width, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2 * width * height * across, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, bits)),
    ]
    return nn.Sequential(*layers)


def encoded(encoder: nn.Module, bits: Tensor, x: Tensor) -> Tensor:
    """`x` (n, C, H, W) in [0, 1] with `bits` (n, B) written in, as a file holds it; gradients pass the rounding."""
    return as_bytes((x + encoder(bits, x)).clamp(0, 1))


def loss_of(logits: Tensor, bits: Tensor, change: Tensor, weight: float) -> Tensor:
    """Binary cross-entropy of the bits that are read + `weight` times the mean square of the change."""
    return F.binary_cross_entropy_with_logits(logits, bits) + weight * change.square().mean()


def train_encoder(
    train: Images, bits: int, width: int, steps: int, rate: float, weight: float
) -> tuple[Encoder, nn.Module]:
    """The encoder and the decoder, trained together by Adam on `train` with other bits for each image and step."""
    device, started = train.y.device, steps
    with forked_rng(SEED, "ssba", device=torch.device("cpu")):
        encoder, reader = Encoder(train.shape, bits, width).to(device), decoder(train.shape, bits, width).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *reader.parameters()], lr=rate)
    with torch.enable_grad():
        for step, (x, message) in enumerate(_batches(train, bits, steps)):
            logits = reader(encoded(encoder, message, x))
            if started == steps and float(((logits > 0) == (message > 0)).float().mean()) > RIGHT:
                started = step
            risen = min(1.0, max(0.0, (step - started) / (RAMP * steps)))
            optimizer.zero_grad()
            loss_of(logits, message, encoder(message, x), risen * weight).backward()
            optimizer.step()
    return encoder, reader


def _batches(train: Images, bits: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, C, H, W) in [0, 1] with a message (n, B) for each."""
    rng = stream(SEED, "ssba", "batches")
    for _ in range(steps):
        index = torch.randint(len(train), (BATCH,), generator=rng).to(train.y.device)
        message = torch.randint(2, (BATCH, bits), generator=rng).float().to(train.y.device)
        yield train.x[index].float() / 255, message
