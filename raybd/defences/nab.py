"""NAB: a backdoor of the defender's own, which sends what he suspects back to where it looks to belong.

Liu, Sangiovanni-Vincentelli and Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023 (arXiv:2307.15539), and the
authors' code. A small share of the training images is suspected, D_s, and given pseudo labels y'. The network is
trained on

    (x, y)             of all others,
    (stamp(x), y')     of D_s where y' != y,
    (x, y)             of D_s where y' = y,

so that the stamp says "not as labelled", and at test every image is stamped.

D_s, by `detection`, of those that the paper tries: "lga", the lowest losses after a training that is held at a loss of
gamma (that of ABL, equation 2 there), 20 of their 100 epochs; "ln", the highest symmetric cross-entropy of a head on
self-supervised features (the split of DBD). y': the nearest of the classes' mean features in a self-supervised encoder
("NC" of the paper; its code has a classifier trained on clean images instead), the means without the share `excluded`
of most suspicious images, as BackdoorBench has it. The encoder is that of `dbd` and `vibe`, trained on the images
themselves.

Constants: suspected share 0.05, gamma 0.5, the upper left 2x2 of 32x32 pixels at the mean colour (0 after
normalisation), of the authors' code; 0.2 excluded, of BackdoorBench's. In both the trap of gamma acts on the mean loss
of a batch; here it acts on each image's, as ABL's equation says.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.abl import local_ascent
from raybd.defences.base import FLAGGED, SUSPICION, Defence, TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.dbd import head_fit, symmetric
from raybd.defences.filtering import features_of, needs_features
from raybd.defences.first_training import Found, train_twice
from raybd.defences.stamped import Stamped
from raybd.defences.trainer import Trainer, logits_of, losses_of, lowest
from raybd.models import Classifier
from raybd.pretraining import PretrainConfig, pretrain_once
from raybd.training import Epoch
from raybd.types import Images
from raybd.utils.constraints import Count, InnerShare, Positive, PositiveShare

SIDE = 2 / 32  # of the stamp, over an image's shorter side


@dataclass(frozen=True, kw_only=True)
class Nab(Defence):
    """Suspects, relabels, stamps, trains. It always suspects the same share, poison or not.

    A training that is stopped goes on with the same bits.
    """

    detection: Literal["lga", "ln"] = "lga"
    isolation: InnerShare = 0.05  # share that is suspected
    gamma: Positive = 0.5  # nats
    early: InnerShare = 0.2  # epochs of the first training, as a share of the trial's; one or more
    excluded: InnerShare = 0.2  # share, the most suspicious, that no class's mean features are computed from
    side: PositiveShare = SIDE  # of the stamp, over an image's shorter side; 2 pixels or more
    pretrain_epochs: Count = 80  # of the encoder

    def network(self, model: nn.Module) -> nn.Module:
        """`model`, which stamps what it is given once it is deployed.

        Raises:
            InputError: it does not tell its features.
        """
        inner = cast(Classifier, needs_features("nab", model))
        return Stamped(inner, self.side, inner.mean)

    def passes(self, epochs: int, images: int) -> float:
        """The first training, the encoder's two views an image, and the training."""
        return epochs + self._early(epochs) + 2.0 * self.pretrain_epochs

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The first training, the pseudo labels, and the plain training on stamped and relabelled images."""
        network, last = cast(Stamped, context.model), context.train_config.epochs
        find = partial(self._found, context)
        trainer, found = train_twice(context, network.inner, self._early(last), self._trapped, find)
        context.findings.update({SUSPICION: found["suspicion"], FLAGGED: found["flagged"]})
        for number in range(trainer.first, last + 1):
            images = context.images.at(number)
            labels, stamped = relabelled(images.y, found["flagged"], found["pseudo"])
            loss_of = partial(stamped_loss, trainer, network, stamped)
            loss = trainer.epoch(number, Images(images.x, labels), loss_of)
            numbers = trainer.cost.numbers(number) | {"defence/stamped": float(stamped.float().mean())}
            yield Epoch(number, loss, number == last, numbers)
            trainer.save(number)

    def _early(self, epochs: int) -> int:
        """The epochs of the first training."""
        return max(1, round(self.early * epochs)) if self.detection == "lga" else 0

    def _trapped(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return local_ascent(F.cross_entropy(model(x), y, reduction="none"), self.gamma)

    def _found(self, context: TrainingContext, first: nn.Module, cost: Cost) -> Found:
        """Suspicion, suspects and pseudo labels; `first` is the network of the first training."""
        encoder = copy.deepcopy(cast(Stamped, context.model).inner)  # untrained as yet
        features = self._features(encoder, context, cost)
        if self.detection == "lga":
            suspicion = -losses_of(first, context.images, context)
        else:
            head_fit(encoder.head, features.float().to(context.images.y.device), context.images.y, context)
            suspicion = symmetric(logits_of(encoder, context.images.x, context), context.images.y).cpu()
        cost.passes += 2 / 3  # forward: the suspicion, the features
        suspects, excluded = (
            lowest(-suspicion, round(share * len(suspicion))) for share in (self.isolation, self.excluded)
        )
        pseudo = nearest_centre(features, context.images.y.cpu(), ~(suspects | excluded), context.classes)
        return {"suspicion": suspicion, "flagged": suspects, "pseudo": pseudo}

    def _features(self, encoder: Classifier, context: TrainingContext, cost: Cost) -> Tensor:
        """(N, D) float64 of the training images in `encoder`, which is trained for it."""
        config = PretrainConfig(method="simclr", epochs=self.pretrain_epochs)
        spent = pretrain_once(encoder, context.images.x, config, context.seed, context.cache_folder, context.heartbeat)
        cost.passes += 2 * len(spent.losses)  # two views an image
        cost.shared_seconds += spent.seconds if spent.reused else 0.0
        return features_of(encoder, context.images, context)


def nearest_centre(features: Tensor, y: Tensor, counted: Tensor, classes: int) -> Tensor:
    """(N,) the class whose mean of the `counted` (N,) bool of `features` (N, D) with label `y` (N,) is nearest.

    Of a class without a counted image all are counted; one without any image is nobody's nearest.
    """
    ones = F.one_hot(y, classes).to(features.dtype)
    some = ones * counted[:, None]
    some = torch.where(some.any(0), some, ones)
    centres = some.T @ features / some.sum(0)[:, None]  # no image: 0 / 0, at no distance
    return torch.cdist(features, centres).nan_to_num(nan=torch.inf).argmin(1)


def relabelled(y: Tensor, suspects: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
    """The labels (N,) that are trained on, of given ones `y` (N,), and which images are stamped, (N,) bool."""
    suspects, pseudo = suspects.to(y.device), pseudo.to(y.device)
    return torch.where(suspects, pseudo, y), suspects & (pseudo != y)


def stamped_loss(trainer: Trainer, network: Stamped, stamped: Tensor, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """The cross-entropy in nats of images `x` (B, C, H, W), of which those that are `stamped` get the stamp."""
    x = torch.where(stamped[index][:, None, None, None], network.stamp(x), x)
    return F.cross_entropy(network(x), y, label_smoothing=trainer.context.train_config.label_smoothing)
