"""DBD: features without labels, a head on top, and labels believed only where that head finds them easy.

Huang, Li, Wu, Qin and Ren, "Backdoor Defense via Decoupling the Training Process", ICLR 2022 (arXiv:2202.03423):
(1) the backbone learns from the images alone (SimCLR); (2) a linear head learns on the frozen features with the
symmetric cross-entropy of Wang et al. (arXiv:1908.06112, equations 3 and 6)

    SCE = a CE(f, y) + b RCE(f, y),  RCE = - sum_k f_k ln y_k with ln 0 := A,  so  RCE = - A (1 - f_y);

(3) the share `credible` of lowest SCE keeps its labels, and the whole network is trained by MixMatch on both parts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import FLAGGED, SUSPICION, Defence, TrainingContext
from raybd.defences.filtering import needs_features
from raybd.defences.mixmatch import MixMatch
from raybd.defences.trainer import Trainer, logits_of, lowest
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.pretraining import PretrainConfig, embed, pretrain_once
from raybd.seeds import stream
from raybd.training import Epoch, in_batches
from raybd.utils.constraints import InnerShare, NonNegative, Positive

A = -4.0  # ln 0
HEAD_EPOCHS, HEAD_RATE = 10, 0.1
ENOUGH = 2000  # steps of the head without which it is not learnt, however small the set


@dataclass(frozen=True, kw_only=True)
class Dbd(Defence):
    """Its encoder is that of VIBE's defaults: trials that share a poisoned set, a network and a seed share it.

    The paper trains 1000, 10 and 190 epochs: here the first two come before the first epoch, which is the first of
    MixMatch. It believes the same share whatever is poisoned. A training that is stopped goes on with the same bits.
    """

    pretrain_epochs: Annotated[int, Ge(1)] = 80
    head_epochs: Annotated[int, Ge(1)] = HEAD_EPOCHS  # of the head; more where that is less than 2000 steps
    head_rate: Positive = HEAD_RATE  # learning rate of the head, constant
    credible: InnerShare = 0.5
    temperature: Positive = MixMatch.temperature
    alpha: Positive = MixMatch.alpha
    unlabelled: NonNegative = MixMatch.unlabelled

    def network(self, model: nn.Module) -> nn.Module:
        """The network as it is. Raises InputError where it does not tell its features."""
        return needs_features("dbd", model)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The encoder, the head, the split, then MixMatch."""
        trainer, last, mixmatch = Trainer(context), context.train_config.epochs, self._mixmatch()
        if trainer.state:
            suspicion, believed = trainer.state["suspicion"], trainer.state["believed"]
        else:
            suspicion = self._suspicion(context, trainer)
            believed = lowest(suspicion, round(self.credible * len(suspicion)))
        context.findings.update({SUSPICION: suspicion, FLAGGED: ~believed})
        for number in range(trainer.first, last + 1):
            loss = mixmatch.epoch(trainer, number, context.images.at(number), believed)
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            trainer.save(number, suspicion=suspicion, believed=believed)

    def _mixmatch(self) -> MixMatch:
        return MixMatch(**{f.name: getattr(self, f.name) for f in fields(MixMatch)})

    def _suspicion(self, context: TrainingContext, trainer: Trainer) -> Tensor:
        """SCE (N,) of every image, once the encoder and the head are learnt."""
        network, images = cast(Classifier, context.model), context.images
        config = PretrainConfig(method="simclr", epochs=self.pretrain_epochs)
        spent = pretrain_once(network, images.x, config, context.seed, context.cache_folder, context.heartbeat)
        with without_noise():
            features = embed(network, images.x, context.heartbeat)
        head_fit(network.head, features, images.y, context, self.head_epochs, self.head_rate)
        trainer.cost.passes += 2 * len(spent.losses) + 1 / 3  # two views an image; the features
        trainer.cost.shared_seconds += spent.seconds if spent.reused else 0.0
        return symmetric(logits_of(network, images.x, context), images.y).cpu()


def symmetric(logits: Tensor, y: Tensor, a: float = 0.1, b: float = 1.0) -> Tensor:
    """SCE (N,) in nats of `logits` (N, K) for labels `y` (N,)."""
    right = logits.softmax(1).gather(1, y[:, None])[:, 0]
    return a * F.cross_entropy(logits, y, reduction="none") - b * A * (1 - right)


def head_fit(
    head: nn.Linear,
    features: Tensor,
    y: Tensor,
    context: TrainingContext,
    epochs: int = HEAD_EPOCHS,
    rate: float = HEAD_RATE,
) -> None:
    """Train `head` in place on `features` (N, D) by the SCE of `y` (N,): SGD with the trial's momentum and decay."""
    train_config = context.train_config
    optimizer = torch.optim.SGD(
        head.parameters(), lr=rate, momentum=train_config.momentum, weight_decay=train_config.weight_decay
    )
    epochs = max(epochs, math.ceil(ENOUGH / math.ceil(len(y) / train_config.batch_size)))
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(y), generator=stream(context.seed, "head", epoch)).to(y.device)
        for index in in_batches(order, train_config.batch_size):
            optimizer.zero_grad(set_to_none=True)
            symmetric(head(features[index]), y[index]).mean().backward()
            optimizer.step()
        context.heartbeat()
