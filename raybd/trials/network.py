"""A trial that trains a network: poisoned, trained under the defence, measured at every probe."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from raybd.attacks.poisoning import PoisonSpec
from raybd.data import split_validation
from raybd.defences import DEFENCES, TrainingContext
from raybd.defences.vibe.truth import probe_accuracy
from raybd.errors import DivergedError
from raybd.metrics import METRICS
from raybd.metrics.base import History
from raybd.pixels import is_streamed
from raybd.plugins import name_of
from raybd.training import AttackedImages, Checkpoint, Epoch, Ranks, probe_schedule
from raybd.training.weighting import Flagged
from raybd.trials.base import (
    TrialKind,
    TrialResult,
    TrialSession,
    poisoned_sets,
    spec_of,
)
from raybd.trials.config import TrialConfig
from raybd.trials.measurements import Measurements
from raybd.trials.network_checks import crop_problems, network_bytes, network_problems, setting_problems
from raybd.trials.twins import Twin, clean_twin, compares_with_twin
from raybd.trials.untrained import deployed_network, plain_network
from raybd.types import POISON, Data, Poisoned

if TYPE_CHECKING:  # slow to import, and only drawing needs it
    from matplotlib.figure import Figure

STEP = 64  # images in the training step that is timed


class NetworkTraining(TrialKind):
    """The training of a network under a defence, measured at every probe."""

    overhead = 0.4

    def problems(self, config: TrialConfig) -> list[str]:
        """Settings of convex fits; probes, a beta, workers or a twin that the training does not go with."""
        return setting_problems(config)

    def data_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """A network or a defence that does not fit the images."""
        shape, classes = data.train.shape, len(data.classes)
        found = config.defence.check(shape, classes) + crop_problems(config, shape)
        if is_streamed(data.train.x) and not config.defence.streams:
            name = name_of(DEFENCES, config.defence)
            found.append(f"defence {name} needs all images in memory, and {data.name} is streamed: raise --data-memory")
        kept = split_validation(data.train, config.validation, config.seed)[0] if config.validation else data.train
        found += config.defence.count_problems(len(kept))
        features = tuple(name_of(METRICS, metric) for metric in config.metrics if metric.needs_features)
        what = (config.model, config.defence, features, config.train.workers)
        return found or list(network_problems(*what, shape, classes))

    def run(self, config: TrialConfig, data: Data, session: TrialSession, start: float) -> TrialResult:
        """One report an epoch, the metrics at every probe."""
        spec = spec_of(config, data)
        poisoned, triggered = poisoned_sets(config, data, spec)
        model = deployed_network(config, data)
        probes = set(config.probes or probe_schedule(config.train.epochs))
        with tempfile.TemporaryDirectory() as folder:
            context_of = partial(_training_context, config, data, session)
            twin = _twin(config, data, context_of, probes, session, Path(folder))
            ranks = Ranks.of(config.train.workers)
            trained_on = _attacked(config, data, spec, poisoned)
            context = context_of(model, trained_on, ranks.checkpoint(session.checkpoint))
            replayed = twin.replay(model, probes, context.findings) if twin and not config.poison_rate else None
            measurements = Measurements(config, data, session, start, context, poisoned, triggered, twin, spec)
            for epoch in replayed or config.defence.train(context):
                measurements.add(epoch, epoch.last or epoch.number in probes)
        return measurements.result()

    def follow(self, config: TrialConfig, data: Data, session: TrialSession) -> None:
        """The clean twin where rank 0 trains it, then the training; no metric."""
        ranks, classes = Ranks.of(config.train.workers), len(data.classes)
        context_of = partial(_training_context, config, data, session, checkpoint=ranks.checkpoint(None))
        poisoned = spec_of(config, data).poison(data.train, classes)
        if _has_twin(config, session):
            while ranks.decide():  # each time that rank 0 trains the twin: see `_twin`
                _exhaust(config.defence.train(context_of()))
        if config.poison_rate or not _has_twin(config, session):
            _exhaust(config.defence.train(context_of(deployed_network(config, data), poisoned)))

    def memory_bytes(self, config: TrialConfig, data: Data) -> int:
        """Weights, gradients and momentum, and the activations of a batch."""
        weights, activations = network_bytes(config.model, data.train.shape, len(data.classes))
        return 3 * weights + activations * min(config.train.batch_size, len(data.train))

    def cost_key(self, config: TrialConfig) -> tuple[object, ...]:
        """Data, network and batch size."""
        return config.image_set, config.model, config.train.batch_size

    def unit_seconds(self, config: TrialConfig, data: Data) -> float:
        """Seconds that a training step takes for each of its images: the fastest of three."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        model = plain_network(config, data)
        size = min(STEP, config.train.batch_size, len(data.train))
        x, y = data.train.x[:size].float() / 255, data.train.y[:size]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            F.cross_entropy(model(x), y).backward()
            times.append(time.perf_counter() - start)
        torch.set_num_threads(before)
        return min(times) / size

    def units(self, config: TrialConfig, data: Data) -> float:
        """Images in all passes of the training, and in two passes over the test set."""
        images = len(data.train)
        return config.defence.passes(config.train.epochs, images) * images + 2 * len(data.test)

    def figures(self, history: History, title: str) -> "dict[str, Figure]":
        """Losses and accuracies by epoch: training."""
        from raybd.utils.figures import training_curves  # matplotlib is slow to import, and only drawing needs it

        return {"training": training_curves(history, title)}


def _training_context(
    config: TrialConfig,
    data: Data,
    session: TrialSession,
    model: nn.Module | None = None,
    poisoned: Poisoned | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingContext:
    """The defence's TrainingContext; by default with an untrained network and the clean training set."""
    images = poisoned.images if poisoned else data.train
    if poisoned and config.train.weighted:  # no other training is given the poison mask
        images = Flagged(images.x, images.y, poisoned.roles == POISON)
    roles = poisoned.roles if poisoned else torch.zeros_like(data.train.y, dtype=torch.uint8)
    return TrainingContext(
        model=model or deployed_network(config, data),
        images=images,
        classes=len(data.classes),
        train_config=config.train,
        seed=config.seed,
        checkpoint=checkpoint,
        trusted=data.validation if config.defence.access == "clean images" else None,
        roles=roles if config.defence.access == "truth" else None,
        cache_folder=session.shared and session.shared / "encoders",
        heartbeat=session.heartbeat,
    )


def _attacked(config: TrialConfig, data: Data, spec: PoisonSpec, poisoned: Poisoned) -> Poisoned:
    """`poisoned`, with an attacker who stamps it while the network is trained, where there is one."""
    if not (config.poison_rate and config.attack.controls_training()):
        return poisoned
    pattern = spec.trigger(data.train.shape, len(data.classes))
    attacker = config.attack.train_along(data.train, poisoned.roles, pattern, config.seed)
    return replace(poisoned, images=AttackedImages(data.train.x, poisoned.images.y, attacker))


def _twin(
    config: TrialConfig,
    data: Data,
    context_of: Callable[[], TrainingContext],
    probes: set[int],
    session: TrialSession,
    own: Path,
) -> Twin | None:
    """The clean twin, where a metric compares with it; and where the trial is one, for others to share.

    Rank 0 tells the other ranks to train it too, each time it does (`NetworkTraining.follow`), and when it is done.
    """
    if not _has_twin(config, session):
        return None
    ranks = Ranks.of(config.train.workers)

    def begin() -> TrainingContext:
        ranks.decide(True)
        return context_of()

    def conclude(context: TrainingContext) -> dict[str, float]:
        return probe_accuracy(context, data.train.y, data.test)

    try:
        twin = clean_twin(config, begin, probes, (session.shared or own) / "twins", session.heartbeat, conclude)
    except DivergedError as error:
        raise DivergedError(f"the clean twin: {error}") from error
    ranks.decide(False)
    return twin


def _has_twin(config: TrialConfig, session: TrialSession) -> bool:
    return compares_with_twin(config) or (session.shared is not None and not config.poison_rate)


def _exhaust(training: Iterator[Epoch]) -> None:
    for _ in training:
        pass
