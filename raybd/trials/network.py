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
from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import split_validation
from raybd.defences import DEFENCES, TrainingContext
from raybd.defences.audit import audit, most_suspected
from raybd.defences.base import SUSPICION
from raybd.defences.vibe.truth import probe_accuracy, relabelling
from raybd.errors import DivergedError
from raybd.metrics import METRICS
from raybd.metrics.base import History
from raybd.models import build_model
from raybd.pixels import is_streamed
from raybd.plugins import name_of
from raybd.seeds import derive, forked_rng
from raybd.training import Checkpoint, Epoch, Ranks, memory_format, predict, probe_schedule
from raybd.training.weighting import Flagged
from raybd.trials.base import (
    TrialKind,
    TrialResult,
    TrialSession,
    measure,
    poisoned_sets,
    result_of,
    triggered_validation,
)
from raybd.trials.config import TrialConfig
from raybd.trials.network_checks import crop_problems, network_bytes, network_problems, setting_problems
from raybd.trials.twins import Twin, clean_twin, compares_with_twin
from raybd.types import POISON, Data, Images, MetricContext, Poisoned, Report

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
        poisoned, triggered = poisoned_sets(config, data)
        model = _model(config, data)
        probes = set(config.probes or probe_schedule(config.train.epochs))
        with tempfile.TemporaryDirectory() as folder:
            context_of = partial(_training_context, config, data, session)
            twin = _twin(config, data, context_of, probes, session, Path(folder))
            ranks = Ranks.of(config.train.workers)
            context = context_of(model, poisoned, ranks.checkpoint(session.checkpoint))
            replayed = twin.replay(model, probes, context.findings) if twin and not config.poison_rate else None
            measurements = _Measurements(config, data, session, start, context, poisoned, triggered, twin)
            for epoch in replayed or config.defence.train(context):
                measurements.add(epoch, epoch.last or epoch.number in probes)
        return measurements.result()

    def follow(self, config: TrialConfig, data: Data, session: TrialSession) -> None:
        """The clean twin where rank 0 trains it, then the training; no metric."""
        ranks, classes = Ranks.of(config.train.workers), len(data.classes)
        context_of = partial(_training_context, config, data, session, checkpoint=ranks.checkpoint(None))
        poisoned = PoisonSpec(config.attack, config.poison_rate, config.seed).poison(data.train, classes)
        if _has_twin(config, session):
            while ranks.decide():  # each time that rank 0 trains the twin: see `_twin`
                _exhaust(config.defence.train(context_of()))
        if config.poison_rate or not _has_twin(config, session):
            _exhaust(config.defence.train(context_of(_model(config, data), poisoned)))

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
        model = _untrained(config, data)
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


class _Measurements:
    """The metrics of a training, added epoch by epoch."""

    def __init__(
        self,
        config: TrialConfig,
        data: Data,
        session: TrialSession,
        start: float,
        training: TrainingContext,
        poisoned: Poisoned,
        triggered: Images,
        twin: Twin | None,
    ) -> None:
        self.config, self.data, self.session, self.start = config, data, session, start
        self.training, self.poisoned, self.triggered, self.twin = training, poisoned, triggered, twin
        self.held_out = triggered_validation(config, data)
        self.history = list(session.earlier)
        self.metrics: dict[str, float] = {}
        self.arrays: dict[str, Tensor] = {}

    def add(self, epoch: Epoch, probe: bool) -> None:
        """Report `epoch`, measured if it is a probe."""
        config = self.config
        self.metrics = {"loss/train": epoch.loss, "seconds/trial": time.perf_counter() - self.start} | epoch.numbers
        new: dict[str, Tensor] = {}
        if probe:
            new = self._measure(epoch)
        if epoch.last:
            self.metrics |= {k: v for metric in config.metrics for k, v in metric.conclude(self.history).items()}
            self.metrics |= audit(self.training.findings, self.poisoned.roles)
            self.metrics |= relabelling(self.training, self.poisoned)
            self.metrics |= probe_accuracy(self.training, self.poisoned.true, self.data.test)
        self.session.report(Report(epoch.number, self.metrics, new))

    def result(self) -> TrialResult:
        """The trial's result: the last metrics, all arrays and the findings of the defence."""
        findings = self.training.findings
        kept = {f"defence/{name}": found.cpu() for name, found in findings.items()}
        suspects = most_suspected(self.poisoned, findings.get(SUSPICION))
        return result_of(self.context, self.metrics, self.arrays | kept, suspects)

    def _measure(self, epoch: Epoch) -> dict[str, Tensor]:
        """Measure after `epoch`; the new arrays."""
        model, twin = self.training.model, self.twin
        context = _metric_context(self.config, model, self.data, self.poisoned, self.triggered, epoch, twin)
        context = _with_triggered(self.config, context, self.held_out)
        self.context = replace(context, heartbeat=self.session.heartbeat)
        if not bool(context.clean_logits.isfinite().all()):  # the last step's loss is no number, and nobody looked
            raise DivergedError(f"the network's outputs are no numbers after epoch {epoch.number}")
        numbers, new = measure(self.config, self.context)
        self.metrics |= numbers
        self.arrays |= new
        self.history.append({"epoch": epoch.number, "metrics": self.metrics})
        return new


def _model(config: TrialConfig, data: Data) -> nn.Module:
    """The untrained network that is deployed, from the trial's stream of initial weights.

    Its weights lie as training lays them: one that gets a twin's weights instead computes the same bits.
    """
    torch.manual_seed(derive(config.seed, "initialisation"))
    network = config.defence.network(_untrained(config, data)).to(data.train.x.device)
    return network.to(memory_format=memory_format(config.train))


def _untrained(config: TrialConfig, data: Data) -> nn.Module:
    wanted = config.model
    return build_model(
        wanted.name,
        data.train.shape,
        len(data.classes),
        data.mean,
        data.std,
        **wanted.network_settings,
    )


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
        model=model or _model(config, data),
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


def _metric_context(
    config: TrialConfig,
    model: nn.Module,
    data: Data,
    poisoned: Poisoned,
    triggered: Images,
    epoch: Epoch,
    twin: Twin | None,
) -> MetricContext:
    validation = data.validation
    with forked_rng(config.seed, "prediction", epoch.number, device=data.test.x.device):
        clean, stamped = (predict(model, images.x, config.train) for images in (data.test, triggered))
        held_out = None if validation is None else predict(model, validation.x, config.train)
    spec = PoisonSpec(config.attack, config.poison_rate, config.seed)
    return MetricContext(
        model=model.eval(),
        data=data,
        poisoned=poisoned,
        triggered=triggered,
        measured=spec.measured(data.test.y),
        clean_logits=clean,
        triggered_logits=stamped,
        validation_logits=held_out,
        members=tuple(member.name for member in config.attack.members()),
        seed=config.seed,
        epoch=epoch.number,
        last=epoch.last,
        twin=_control(config, data, model, twin, epoch.number),
        trigger=None if isinstance(config.attack, NoAttack) else spec,
    )


def untrained_context(config: TrialConfig, data: Data) -> MetricContext:
    """What metrics look at after the last epoch, of a network that was not trained and is its own clean twin."""
    model = _model(config, data)
    epoch = Epoch(config.train.epochs, 0.0, last=True)
    context = _metric_context(config, model, data, *poisoned_sets(config, data), epoch, None)
    return replace(context, twin=model)


def _with_triggered(config: TrialConfig, context: MetricContext, held_out: Images | None) -> MetricContext:
    """`context` with the outputs for the images that are set aside, triggered."""
    if held_out is None:
        return context
    with forked_rng(config.seed, "prediction", "validation", context.epoch, device=context.data.test.x.device):
        outputs = predict(context.model, held_out.x, config.train)
    return replace(context, triggered_validation=held_out, triggered_validation_logits=outputs)


def _control(config: TrialConfig, data: Data, model: nn.Module, twin: Twin | None, epoch: int) -> nn.Module | None:
    """The clean twin's network: the trial's own where it is one."""
    if twin is None or not config.poison_rate:
        return model if twin else None
    with forked_rng(config.seed, "twin", device=data.test.x.device):
        return twin.load(_model(config, data), epoch)
