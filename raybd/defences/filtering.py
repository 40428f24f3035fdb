"""What the filters share: a first training, its features, a verdict on every image, and training anew on the rest.

A filter trains a copy of the network on everything, which tells its features, judges the images by them, and trains
the trial's own fresh network on those that are left. Only the second training yields epochs; the first is counted in
"defence/passes". A training that is stopped goes on in its second part, with the same bits; in the first it starts
anew, and comes to the same verdict.
"""

import copy
import logging
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import FLAGGED, SUSPICION, Defence, TrainingContext
from raybd.defences.cost import Cost
from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.base import require
from raybd.models.noise import without_noise
from raybd.pretraining import embed
from raybd.training import Checkpoint, Epoch, Ranks, fit
from raybd.types import Images

log = logging.getLogger(__name__)
STARTS = 20  # of 2-means


@dataclass(frozen=True)
class Verdict:
    """What a filter says of N training images."""

    suspicion: Tensor  # (N,) float64
    flagged: Tensor  # (N,) bool

    def cpu(self) -> "Verdict":
        """The same on the CPU."""
        return Verdict(self.suspicion.cpu(), self.flagged.cpu())


@dataclass(frozen=True, kw_only=True)
class Filter(Defence):
    """Removes what a first training makes look suspicious. A class is never removed whole: it is left as it was."""

    first_epochs: Annotated[int, Ge(0)] = 0  # of the first training; 0: as many as the trial's

    parallel: ClassVar[bool] = True  # but for the verdict

    @abstractmethod
    def judge(self, context: TrainingContext, network: Classifier) -> Verdict:
        """What `network`, which was trained on all of the images, tells of them."""

    def network(self, model: nn.Module) -> nn.Module:
        """The network as it is. Raises InputError where it does not tell its features."""
        return needs_features(type(self).__name__, model)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The first training, the verdict, and the plain training loop on the rest."""
        state = context.checkpoint.load() if context.checkpoint is not None else None
        cost = Cost(state, 0 if context.trusted is None else len(context.trusted))
        if state is None:
            verdict, spared = self._judged(context, cost)
        else:
            verdict, spared = Verdict(state["suspicion"], state["flagged"]), state["spared"]
        context.findings.update({SUSPICION: verdict.suspicion, FLAGGED: verdict.flagged})
        kept = part(context.images, (~verdict.flagged).nonzero()[:, 0])
        share = len(kept) / len(context.images)
        beside = {"suspicion": verdict.suspicion, "flagged": verdict.flagged, "spared": spared}
        checkpoint = context.checkpoint and Beside(context.checkpoint, beside, cost)
        for epoch in fit(context.model, kept, context.train_config, context.seed, checkpoint):
            cost.passes += share
            numbers = {"defence/removed": 1 - share, "defence/spared_classes": spared}
            yield replace(epoch, numbers=numbers | cost.numbers(epoch.number))

    def _judged(self, context: TrainingContext, cost: Cost) -> tuple[Verdict, float]:
        network = cast(Classifier, copy.deepcopy(context.model))
        train_config = replace(context.train_config, epochs=self.first_epochs or context.train_config.epochs)
        for _ in fit(network, context.images, train_config, context.seed):
            cost.passes += 1
            context.heartbeat()
        verdict = Ranks.of(train_config.workers).from_primary(lambda: self.judge(context, network).cpu())
        flagged, spared = spare_classes(verdict.flagged, context.images.y.cpu(), context.classes)
        return Verdict(verdict.suspicion, flagged), float(spared)


class Beside(Checkpoint):
    """A checkpoint whose every state also holds what a defence has found and spent."""

    def __init__(self, inner: Checkpoint, beside: dict[str, Any], cost: Cost) -> None:
        self._inner, self._beside, self._meter = inner, beside, cost

    def load(self) -> dict[str, Any] | None:
        """The state last saved."""
        return self._inner.load()

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` and what is beside it."""
        self._inner.save(state | self._beside | self._meter.state())


@dataclass(frozen=True)
class Part(Images):
    """Some images of a set: in a later epoch, those at the same places of what an attacker has renewed."""

    whole: Images
    index: Tensor  # (N,) int64

    def at(self, epoch: int) -> Images:
        """The images that a training sees in `epoch`."""
        now = self.whole.at(epoch)
        return self if now is self.whole else now.take(self.index)


def part(images: Images, index: Tensor) -> Part:
    """`images` at `index` (n,) int64."""
    index = index.to(images.x.device)
    taken = images.take(index)
    return Part(taken.x, taken.y, images, index)


def needs_features(name: str, model: nn.Module) -> nn.Module:
    """`model`. Raises InputError where it does not tell its features."""
    require((isinstance(model, Classifier), f"{name} needs a raybd.models.Classifier, {type(model).__name__} is none"))
    return model


def check_trusted(name: str, context: TrainingContext) -> None:
    """Raise InputError unless there are clean images of every class."""
    if context.trusted is None:
        raise InputError(f"{name} needs clean images: set some aside (--validation)")
    counts = torch.bincount(context.trusted.y, minlength=context.classes)
    if bad := (counts == 0).nonzero()[:, 0].tolist():
        raise InputError(f"{name} needs clean images of every class, and there are none of {bad}")


def features_of(network: Classifier, images: Images, context: TrainingContext) -> Tensor:
    """What the head of `network` reads of `images`, one row an image, in their order: (N, D) float64 on the CPU."""
    with without_noise():
        return embed(network, images.x, context.heartbeat).double().cpu()


def spare_classes(flagged: Tensor, y: Tensor, classes: int) -> tuple[Tensor, int]:
    """`flagged` (N,) without the flags of classes that would lose every image; and the number of such classes."""
    left = torch.bincount(y[~flagged], minlength=classes)
    lost = (left == 0) & (torch.bincount(y, minlength=classes) > 0)
    if lost.any():
        log.warning("all images of classes %s are suspect: they stay as they are", lost.nonzero()[:, 0].tolist())
    return flagged & ~lost[y], int(lost.sum())


def two_means(z: Tensor) -> tuple[Tensor, float]:
    """2-means of `z` (n, d): which points are in the smaller cluster (n,) bool, and the sum of squared distances.

    The starts are drawn from the points in the order of their distance from the mean, with a seed of their own: so
    neither the order in which they come nor a rotation counts. All in one cluster where there are no two different
    points.
    """
    z = z - z.mean(0)
    lengths = z.square().sum(1)
    if not bool(lengths.max() > 0):
        return torch.zeros(len(z), dtype=torch.bool), 0.0
    order = lengths.argsort(stable=True)
    from sklearn.cluster import KMeans

    found = KMeans(2, n_init=STARTS, random_state=0).fit(z[order].numpy())
    small = torch.zeros(len(z), dtype=torch.bool)
    small[order] = torch.from_numpy(found.labels_ == 1)
    return (~small if int(small.sum()) * 2 > len(z) else small), float(found.inertia_)
