"""SSBA, or ISSBA (Li et al., ICCV 2021, arXiv:2012.03816): one message, hidden in each image in another way."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from raybd.attacks.base import Attack, Shape, Trigger
from raybd.attacks.networks import from_vector, passed, size_of, sketch, to_vector
from raybd.attacks.steganography import Encoder, train_encoder
from raybd.attacks.surrogate import trained_once
from raybd.types import Images
from raybd.utils.constraints import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """x + E(x, m): an encoder E writes the message m of `bits` random bits into the image.

    E is trained once on the training images, with a decoder D that reads the bits from what a file would hold:

        min over E, D of mean BCE(D(x + E(x, m)), m) + `weight` mean E(x, m)^2, images in [0, 1], m drawn anew

    and the second term from where D reads nine bits in ten, rising over 30 % of the steps: BackdoorBench's training.
    The message of the attack is drawn for each trial. The paper's encoder is StegaStamp's, with 100 bits at 224x224.
    """

    bits: Annotated[int, Ge(2)] = 8  # of the message
    weight: NonNegative = 50.0  # of the mean square of the change
    width: Annotated[int, Ge(1)] = 16  # channels of the encoder's first layer
    steps: Annotated[int, Ge(1)] = 1000  # of its training, with batches of 64
    rate: Positive = 0.003  # learning rate of its training, Adam's

    def draw_from(self, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(D + B,) the encoder's weights, trained once for each training set, then the trial's message."""
        settings = (self.bits, self.width, self.steps, self.rate, self.weight)
        weights = trained_once("ssba", train, f"{settings}", lambda: to_vector(train_encoder(train, *settings)[0]))
        return torch.cat([weights.cpu(), torch.randint(2, (self.bits,), generator=rng).float()])

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the message."""
        shape = (x.shape[1], x.shape[2], x.shape[3])
        network = sketch(lambda: Encoder(shape, self.bits, self.width))
        weights, message = trigger.pattern.split([size_of(network), self.bits])
        encoder = from_vector(network, weights)
        return x.add_(255 * passed(lambda some: encoder(message.expand(len(some), -1), some), x / 255))

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Images that are too small for the encoder."""
        return [] if min(shape[1:]) >= 8 else [f"images of {shape[1]}x{shape[2]} are too small (allowed: 8x8 and more)"]
