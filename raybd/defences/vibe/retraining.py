"""VIBE's pseudolabels as a training set: the trial's network learns them from the start, by the ordinary loop.

Ours, not the paper's, though its q(l|x, y) is an estimate of the clean label; DBD and ASD end in a stage like it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from raybd.defences.base import ENCODER, TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.filtering import FIRST, FilterCheckpoint, FirstCheckpoint
from raybd.defences.vibe.heads import VibeNetwork
from raybd.defences.vibe.settings import VibeSettings
from raybd.defences.vibe.training import PSEUDOLABEL, EmTraining
from raybd.training import Checkpoint, Epoch, fit
from raybd.types import Images

LEARNT = "learnt"  # key of what EM found in a checkpoint
RETRAINED = "retrained_epochs"  # key of the epochs of the training, whose number need not be the trial's


@dataclass(frozen=True)
class Relabelled(Images):
    """Images with other labels; where each epoch is poisoned anew, those of that epoch."""

    whole: Images

    def at(self, epoch: int) -> Images:
        """The images that a training sees in `epoch`, with the same labels in every one."""
        now = self.whole.at(epoch)
        return self if now is self.whole else Images(now.x, self.y)


@dataclass(frozen=True)
class Spread:
    """`trained` epochs of a training, spread evenly over the `reported` ones of a trial."""

    trained: int
    reported: int

    def done(self, number: int) -> int:
        """How many epochs of the trial are over after epoch `number` of the training."""
        return number * self.reported // self.trained

    def due(self, epoch: Epoch) -> range:
        """The epochs of the trial that are over with `epoch`, and not before; one at least of a training's last."""
        before = self.done(epoch.number - 1)
        return range(before + 1, max(self.done(epoch.number), before + epoch.last) + 1)


class RetrainingCheckpoint(FilterCheckpoint):
    """A checkpoint of the retraining, whose states also hold what EM found; its epoch is that of the trial."""

    def __init__(self, inner: Checkpoint, learnt: dict[str, Any], cost: Cost, spread: Spread) -> None:
        super().__init__(inner, {LEARNT: learnt}, cost)
        self._spread = spread

    def load(self) -> dict[str, Any] | None:
        """The state last saved, with the epoch of the training."""
        state = super().load()
        return state and state | {"epoch": state[RETRAINED]}

    def save(self, state: dict[str, Any]) -> None:
        """Save `state` with what EM found, the cost, and the epoch of the trial."""
        number = state["epoch"]
        super().save(state | {RETRAINED: number, "epoch": self._spread.done(number)})


def retrained(settings: VibeSettings, context: TrainingContext, encoder: VibeNetwork) -> Iterator[Epoch]:
    """EM with `encoder`, then the plain training loop on all images with their pseudolabels; only it yields epochs.

    Images that no class has to explain, and those of an outlier community, get the label that their content has by
    p(l|x): the network learns to ignore a trigger by images that bear it.
    """
    state = context.checkpoint.load() if context.checkpoint is not None else None
    cost = Cost(state)
    if state is None or FIRST in state:
        kept = _learnt(settings, context, encoder, cost)
    else:
        kept = state[LEARNT]
        encoder.load_state_dict(kept["encoder"])
        context.findings.update(kept["findings"])
    if settings.source.kind != "npy":
        context.networks[ENCODER] = encoder.backbone
    labels = kept["labels"].to(context.images.y.device)
    train_config = replace(context.train_config, epochs=settings.retrain_epochs or context.train_config.epochs)
    spread = Spread(train_config.epochs, context.train_config.epochs)
    checkpoint = context.checkpoint and RetrainingCheckpoint(context.checkpoint, kept, cost, spread)
    images = Relabelled(context.images.x, labels, context.images)
    for epoch in fit(context.model, images, train_config, context.seed, checkpoint):
        cost.passes += 1
        context.heartbeat()
        for number in (due := spread.due(epoch)):
            last = epoch.last and number == due[-1]
            yield Epoch(number, epoch.loss, last, kept["numbers"] | cost.numbers(number))


def _learnt(settings: VibeSettings, context: TrainingContext, encoder: VibeNetwork, cost: Cost) -> dict[str, Any]:
    """What EM found, as a checkpoint keeps it."""
    checkpoint = context.checkpoint and FirstCheckpoint(context.checkpoint, cost)
    run = EmTraining(settings, context, encoder, checkpoint, cost)
    for number in range(run.first, context.train_config.epochs + 1):
        run.epoch(number)
        run.save(number)
    labels = context.findings[PSEUDOLABEL].clone()
    if bool((rest := labels == context.classes).any()):
        labels[rest] = run.content_labels().cpu()[rest]
    kept = {"labels": labels, "findings": dict(context.findings), "numbers": run.numbers()}
    return kept | {"encoder": encoder.state_dict()}
