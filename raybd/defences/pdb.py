"""PDB: a backdoor that only the defender knows, stronger than the attacker's: every image is stamped, and h undoes it.

Wei, Zha and Wu, "Mitigating Backdoor Attack by Injecting Proactive Defensive Backdoor", NeurIPS 2024
(arXiv:2405.16112), and the authors' code. The network is trained on the training set as it is, and on clean images x
with the defender's stamp, labelled h(y) = y + 1 mod K; at test an image is stamped, and h^-1 taken of the prediction.

Here the labels of the *unstamped* are h^-1(y), and those of the stamped y: the same training up to the names of the
outputs, with which the deployed network needs no more than the stamp.

Constants: clean images 10 % of the training set (or what is set aside, if less), each five times an epoch; the stamp
the upper left 7x7 of 32x32 pixels at the value 2 (images are in [0, 1]); stamped images made darker by U(0.5, 1) with
probability 0.2, and turned by up to 10 degrees with probability 0.5: those of the code. It crops and mirrors after
stamping, here the stamp stays where it is at test.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import Access, Defence, TrainingContext
from raybd.defences.filtering import check_trusted, needs_features
from raybd.defences.post import drawn
from raybd.defences.stamped import Stamped
from raybd.defences.trainer import Trainer
from raybd.models import Classifier
from raybd.pretraining.ops import affine
from raybd.seeds import stream
from raybd.training import Epoch
from raybd.types import Images
from raybd.utils.constraints import Count, InnerShare, NonNegative, PositiveShare, Share

SIDE = 7 / 32  # of the stamp, over an image's shorter side


@dataclass(frozen=True, kw_only=True)
class Pdb(Defence):
    """Trains with the defender's backdoor; it suspects nobody.

    A training that is stopped goes on with the same bits.
    """

    budget: InnerShare = 0.1  # clean images, as a share of the training set before any were set aside; fewer do
    repeats: Count = 5  # of each clean image in an epoch
    side: PositiveShare = SIDE  # of the stamp, over an image's shorter side; 2 pixels or more
    value: NonNegative = 2.0  # of the stamp; white is 1
    darker: Share = 0.2  # probability
    turned: Share = 0.5  # probability
    degrees: NonNegative = 10.0  # at most, either way

    access: ClassVar[Access] = "clean images"
    streams: ClassVar[bool] = False  # it puts the clean images behind the others

    def network(self, model: nn.Module) -> nn.Module:
        """`model`, which stamps what it is given once it is deployed.

        Raises:
            InputError: it does not tell its features.
        """
        inner = cast(Classifier, needs_features("pdb", model))
        return Stamped(inner, self.side, torch.full_like(inner.mean, self.value))

    def passes(self, epochs: int, images: int) -> float:
        """Those of an epoch with the clean images in it."""
        return epochs * (1 + self.repeats * self.budget)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The plain training on both kinds of images.

        Raises:
            InputError: there are no clean images of some class.
        """
        check_trusted("pdb", context)
        trainer, last, clean = Trainer(context), context.train_config.epochs, drawn(context, self.budget)
        trainer.cost.extra = len(clean)
        for number in range(trainer.first, last + 1):
            images = context.images.at(number)
            x = torch.cat([images.x, *[clean.x] * self.repeats])
            y = torch.cat([unnamed(images.y, context.classes), *[clean.y] * self.repeats])
            rng = stream(context.seed, "pdb", number, device=x.device)
            loss = trainer.epoch(number, Images(x, y), partial(self._loss, trainer, len(images), rng))
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            trainer.save(number)

    def _loss(self, trainer: Trainer, count: int, rng: torch.Generator, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """The cross-entropy of a batch, whose images from the place `count` on are clean, and stamped."""
        network = cast(Stamped, trainer.model)
        stamped = self.varied(network.stamp(x), rng)
        logits = network(torch.where((index >= count)[:, None, None, None], stamped, x))
        return F.cross_entropy(logits, y, label_smoothing=trainer.context.train_config.label_smoothing)

    def varied(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The images `x` (N, C, H, W), some darker, some turned, each by its own draw."""
        u = torch.rand(4, len(x), generator=rng, device=x.device)
        light = torch.where(u[0] < self.darker, 0.5 + 0.5 * u[1], 1.0)
        angle = torch.where(u[2] < self.turned, self.degrees * (2 * u[3] - 1), 0.0)
        settings = torch.zeros(len(x), 5, device=x.device)
        settings[:, 0], settings[:, 2] = angle, 1.0
        x = light[:, None, None, None] * x
        return torch.where((angle == 0)[:, None, None, None], x, affine(x, settings))


def unnamed(y: Tensor, classes: int) -> Tensor:
    """h^-1(y) = y - 1 mod `classes`."""
    return (y - 1) % classes
