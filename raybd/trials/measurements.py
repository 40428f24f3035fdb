"""The measures of a network's training: what metrics look at, and what they found, epoch by epoch."""

import time
from dataclasses import replace

from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.attacks.poisoning import PoisonSpec
from raybd.defences import TrainingContext
from raybd.defences.base import SUSPICION
from raybd.defences.comparison import compare_with_truth, most_suspected
from raybd.defences.vibe.truth import probe_accuracy, relabelling
from raybd.errors import DivergedError
from raybd.seeds import forked_rng
from raybd.training import AttackedImages, Epoch, predict
from raybd.trials.base import (
    TrialResult,
    TrialSession,
    measure,
    poisoned_sets,
    result_of,
    spec_of,
    triggered_validation,
)
from raybd.trials.config import TrialConfig
from raybd.trials.twins import Twin
from raybd.trials.untrained import deployed_network
from raybd.types import Data, Images, MetricContext, Poisoned, Report


class Measurements:
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
        spec: PoisonSpec,
    ) -> None:
        self.config, self.data, self.session, self.start = config, data, session, start
        self.training, self.poisoned, self.triggered, self.twin = training, poisoned, triggered, twin
        self.spec, self.held_out = spec, triggered_validation(config, data, spec)
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
            compared = compare_with_truth(self.training.findings, self.poisoned.roles)
            self.metrics |= {f"defence/{name}": value for name, value in compared.items()}
            self.metrics |= relabelling(self.training, self.poisoned)
            self.metrics |= probe_accuracy(self.training, self.poisoned.true, self.data.test)
        self.session.report(Report(epoch.number, self.metrics, new, self.training.model if probe else None))

    def result(self) -> TrialResult:
        """The trial's result: the last metrics, all arrays and the findings of the defence."""
        findings = self.training.findings
        kept = {f"defence/{name}": found.cpu() for name, found in findings.items()}
        suspects = most_suspected(self.poisoned, findings.get(SUSPICION))
        return result_of(self.context, self.metrics, self.arrays | kept, suspects)

    def _measure(self, epoch: Epoch) -> dict[str, Tensor]:
        """Measure after `epoch`; the new arrays."""
        self._renew()
        model, twin = self.training.model, self.twin
        sets = self.spec, self.poisoned, self.triggered
        context = _metric_context(self.config, model, self.data, sets, epoch, twin)
        context = _with_triggered(self.config, context, self.held_out)
        self.context = replace(context, heartbeat=self.session.heartbeat)
        if not bool(context.clean_logits.isfinite().all()):  # the last step's loss is no number, and nobody looked
            raise DivergedError(f"the network's outputs are no numbers after epoch {epoch.number}")
        numbers, new = measure(self.config, self.context)
        self.metrics |= numbers
        self.arrays |= new
        self.history.append({"epoch": epoch.number, "metrics": self.metrics})
        return new

    def _renew(self) -> None:
        """Where the attacker trains along: its trigger as it is now, verified."""
        if isinstance(images := self.training.images, AttackedImages):
            config, data = self.config, self.data
            self.spec = replace(self.spec, patterns=(images.attacker.pattern(),))
            self.poisoned, self.triggered = poisoned_sets(config, data, self.spec)
            self.held_out = triggered_validation(config, data, self.spec)


def _metric_context(
    config: TrialConfig,
    model: nn.Module,
    data: Data,
    sets: tuple[PoisonSpec, Poisoned, Images],
    epoch: Epoch,
    twin: Twin | None,
) -> MetricContext:
    """What metrics look at after `epoch`; `sets` are the spec, and what `poisoned_sets` made with it."""
    validation, (spec, poisoned, triggered) = data.validation, sets
    with forked_rng(config.seed, "prediction", epoch.number, device=data.test.x.device):
        clean, stamped = (predict(model, images.x, config.train) for images in (data.test, triggered))
        held_out = None if validation is None else predict(model, validation.x, config.train)
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
    model = deployed_network(config, data)
    epoch, spec = Epoch(config.train.epochs, 0.0, last=True), spec_of(config, data)
    context = _metric_context(config, model, data, (spec, *poisoned_sets(config, data, spec)), epoch, None)
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
        return twin.load(deployed_network(config, data), epoch)
