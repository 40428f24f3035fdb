"""Filter: the base class of defences that detect poison in the features of a first training and train on the rest.

A copy of the network is trained on all images; poison is detected in its features; the trial's own network is trained
on the images that are left. Only the second training yields epochs; the first is counted in "defence/passes". A
training that is stopped resumes in either, with the same bits.
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
from raybd.models import Classifier, feature_problem
from raybd.models.base import require
from raybd.models.noise import without_noise
from raybd.pretraining import embed
from raybd.training import Checkpoint, Epoch, Ranks, fit
from raybd.types import Images

log = logging.getLogger(__name__)
STARTS = 20  # of 2-means
FIRST = "first"  # key of the first training's state in a checkpoint


@dataclass(frozen=True)
class FilterResult:
    """The suspicion of N training images, and which of them are flagged as poison."""

    suspicion: Tensor  # (N,) float64
    flagged: Tensor  # (N,) bool

    def cpu(self) -> "FilterResult":
        """The same on the CPU."""
        return FilterResult(self.suspicion.cpu(), self.flagged.cpu())


@dataclass(frozen=True, kw_only=True)
class Filter(Defence):
    """Removes what a first training makes look suspicious. A class is never removed whole: it is left as it was."""

    first_epochs: Annotated[int, Ge(0)] = 0  # of the first training; 0: as many as the trial's

    parallel: ClassVar[bool] = True  # but for the detection

    @abstractmethod
    def detect(self, context: TrainingContext, network: Classifier) -> FilterResult:
        """Detect poison with `network`, which was trained on all of the images."""

    def network(self, model: nn.Module) -> nn.Module:
        """The network as it is. Raises InputError where it does not tell its features."""
        return needs_features(type(self).__name__, model)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The first training, the detection, and the plain training loop on the rest."""
        state = context.checkpoint.load() if context.checkpoint is not None else None
        cost = Cost(state, 0 if context.trusted is None else len(context.trusted))
        if state is None or FIRST in state:
            result, spared = self._detected(context, cost)
        else:
            result, spared = FilterResult(state["suspicion"], state["flagged"]), state["spared"]
        context.findings.update({SUSPICION: result.suspicion, FLAGGED: result.flagged})
        kept = subset(context.images, (~result.flagged).nonzero()[:, 0])
        share = len(kept) / len(context.images)
        extra = {"suspicion": result.suspicion, "flagged": result.flagged, "spared": spared}
        checkpoint = context.checkpoint and FilterCheckpoint(context.checkpoint, extra, cost)
        for epoch in fit(context.model, kept, context.train_config, context.seed, checkpoint):
            cost.passes += share
            numbers = {"defence/removed": 1 - share, "defence/spared_classes": spared}
            yield replace(epoch, numbers=numbers | cost.numbers(epoch.number))

    def _detected(self, context: TrainingContext, cost: Cost) -> tuple[FilterResult, float]:
        network = cast(Classifier, copy.deepcopy(context.model))
        train_config = replace(context.train_config, epochs=self.first_epochs or context.train_config.epochs)
        checkpoint = context.checkpoint and FirstCheckpoint(context.checkpoint, cost)
        for _ in fit(network, context.images, train_config, context.seed, checkpoint):
            cost.passes += 1
            context.heartbeat()
        result = Ranks.of(train_config.workers).from_primary(lambda: self.detect(context, network).cpu())
        flagged, spared = spare_classes(result.flagged, context.images.y.cpu(), context.classes)
        return FilterResult(result.suspicion, flagged), float(spared)


class FirstCheckpoint(Checkpoint):
    """A checkpoint of the first training, in the file of the trial's, which has yielded no epoch by then."""

    def __init__(self, inner: Checkpoint, cost: Cost) -> None:
        self._inner, self._cost = inner, cost

    def load(self) -> dict[str, Any] | None:
        """The state last saved."""
        state = self._inner.load()
        return state and state[FIRST]

    def save(self, state: dict[str, Any]) -> None:
        """Save `state` with the cost so far."""
        self._inner.save({"epoch": 0, FIRST: state} | self._cost.state())


class FilterCheckpoint(Checkpoint):
    """A checkpoint whose states also hold the result of a filter and its cost."""

    def __init__(self, inner: Checkpoint, extra: dict[str, Any], cost: Cost) -> None:
        self._inner, self._extra, self._cost = inner, extra, cost

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None while that is one of the first training."""
        state = self._inner.load()
        return None if state and FIRST in state else state

    def save(self, state: dict[str, Any]) -> None:
        """Save `state` with the result and the cost."""
        self._inner.save(state | self._extra | self._cost.state())


@dataclass(frozen=True)
class Subset(Images):
    """Images of a set at given indices; where each epoch is poisoned anew, those of that epoch."""

    whole: Images
    index: Tensor  # (N,) int64

    def at(self, epoch: int) -> Images:
        """The images that a training sees in `epoch`."""
        now = self.whole.at(epoch)
        return self if now is self.whole else now.part(self.index)


def subset(images: Images, index: Tensor) -> Subset:
    """`images` at `index` (n,) int64."""
    index = index.to(images.x.device)
    taken = images.part(index)
    return Subset(taken.x, taken.y, images, index)


def needs_features(name: str, model: nn.Module) -> nn.Module:
    """`model`. Raises InputError where it does not tell its features."""
    require((isinstance(model, Classifier), f"{name} needs features: {feature_problem(model)}"))
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
