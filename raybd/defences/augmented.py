"""Strong augmentation, the defence that costs nothing: mixup, or a black square (cutout).

Borgnia et al., "Strong Data Augmentation Sanitizes Poisoning and Backdoor Attacks Without an Accuracy Tradeoff",
ICASSP 2021 (arXiv:2011.09527); mixup: Zhang et al., arXiv:1710.09412; cutout: DeVries and Taylor, arXiv:1708.04552.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.defences.base import Defence, TrainingContext
from raybd.defences.trainer import Trainer
from raybd.pretraining.ops import erase
from raybd.seeds import stream
from raybd.training import Epoch
from raybd.utils.constraints import Positive, PositiveShare

Kind = Literal["mixup", "cutout", "both"]


@dataclass(frozen=True, kw_only=True)
class Augmented(Defence):
    """Trains on mixed or holed images, after the trial's own augmentation. It suspects nobody.

    A training that is stopped goes on with the same bits.
    """

    kind: Kind = "mixup"
    alpha: Positive = 1.0  # of mixup: the weight of an image is Beta(alpha, alpha), one draw a batch
    hole: PositiveShare = 0.5  # of cutout: its side over the image's shorter one (16 of 32 pixels)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The plain training loop on what becomes of the images."""
        trainer, last = Trainer(context), context.train_config.epochs
        for number in range(trainer.first, last + 1):
            rng = stream(context.seed, "augmented", number, device=context.images.x.device)
            loss = trainer.epoch(number, context.images.at(number), partial(self._loss, trainer, rng))
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            trainer.save(number)

    def _loss(self, trainer: Trainer, rng: torch.Generator, x: Tensor, y: Tensor, _: Tensor) -> Tensor:
        if self.kind != "mixup":
            x = cut_out(x, max(1, round(self.hole * min(x.shape[2:]))), rng)
        if self.kind == "cutout":
            return F.cross_entropy(trainer.model(x), y)
        share = beta(self.alpha, rng)
        other = torch.randperm(len(x), generator=rng, device=x.device)
        logits = trainer.model(mix(x, x[other], share))
        return mix(F.cross_entropy(logits, y), F.cross_entropy(logits, y[other]), share)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """share * first + (1 - share) * second."""
    return second + share * (first - second)


def beta(alpha: float, rng: torch.Generator) -> Tensor:
    """One draw () of Beta(alpha, alpha): g / (g + h) of two draws of Gamma(alpha), for alpha above 0."""
    g, h = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64, device=rng.device), generator=rng)
    share: Tensor = g / (g + h).clamp_min(torch.finfo(torch.float64).tiny)
    return share.float()


def cut_out(x: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """`x` (N, C, H, W), each with a black square of `side` pixels whose centre is any pixel: it may leave the image."""
    height, width = x.shape[2:]
    u = torch.rand(2, len(x), generator=rng, device=x.device)
    corner = torch.stack([u[0] * height, u[1] * width], 1).floor() - side // 2
    return erase(x, corner, side)
