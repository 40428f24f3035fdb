"""TrialKind, TrialSession and TrialResult, and the poisoning and measuring that both kinds of trial share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.attacks.poisoning import PoisonSpec, RepoisonedImages
from raybd.attacks.verification import verify_poisoning
from raybd.defences.comparison import Suspects
from raybd.errors import InputError
from raybd.metrics import Accuracy
from raybd.metrics.accuracy import per_sample
from raybd.metrics.base import History
from raybd.training import Checkpoint
from raybd.trials.config import TrialConfig
from raybd.trials.examples import Examples, examples_of
from raybd.types import Data, Images, MetricContext, Poisoned, Report
from raybd.utils.html import facts

RATES = ("accuracy/clean", "attack_success", "accuracy/robust")

if TYPE_CHECKING:  # slow to import, and only drawing needs it
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrialSession:
    """Callbacks, checkpoint and shared folder of a running trial."""

    report: Callable[[Report], None] = lambda _: None  # called with the metrics of every epoch
    checkpoint: Checkpoint | None = None
    shared: Path | None = None  # folder that trials share: clean twins, encoders of defences
    heartbeat: Callable[[], None] = lambda: None  # called during long work
    earlier: History = ()  # of the epochs before `checkpoint`
    folder: Path | None = None  # the trial's own, for logs of a user's commands
    function: Callable[..., Any] | None = None  # of the user, that trains where `TrialConfig.script` names one


@dataclass(frozen=True)
class TrialResult:
    """Final metrics of a trial, its tables and arrays, and example images with the trigger."""

    metrics: dict[str, float]
    manifest: dict[str, Any]
    table: dict[str, Tensor]  # one row a test image
    roles: Tensor  # (N,) uint8, one a training image: CLEAN, POISON or COVER
    examples: Examples  # a few test images, clean and with the trigger
    model: nn.Module
    arrays: dict[str, Tensor] = field(default_factory=dict)  # what metrics keep, as name/epoch, and defences
    suspects: Suspects | None = None  # of a defence that ranks the training images
    classes: tuple[str, ...] = ()  # their names, by number

    def _repr_html_(self) -> str:
        more = [name for name in self.metrics if name not in RATES]
        poison = [(name, self.manifest[name]) for name in ("poison", "cover") if name in self.manifest]
        rates = [(name, self.metrics[name]) for name in RATES if name in self.metrics]
        rest = facts((name, self.metrics[name]) for name in more)
        return f"<div>{facts([*rates, *poison])}<details><summary>{len(more)} more</summary>{rest}</details></div>"


class TrialKind(ABC):
    """The training of a network or the fit of a convex learner: how such a trial is checked, run, timed and drawn."""

    overhead: ClassVar[float]  # seconds of a trial besides its units of work: pictures, records

    @abstractmethod
    def problems(self, config: TrialConfig) -> list[str]:
        """Settings of `config` that do not go with this kind."""

    @abstractmethod
    def data_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """Why the model cannot be built for `data`."""

    def poison_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """Why `data`, without validation images, cannot be poisoned as `config` asks."""
        return PoisonSpec(config.attack, config.poison_rate, config.seed).check(data.train.y)

    @abstractmethod
    def run(self, config: TrialConfig, data: Data, session: TrialSession, start: float) -> TrialResult:
        """Poison `data`, train or fit, measure. `start`: when the trial began, by `time.perf_counter`.

        Raises:
            PoisoningError: the poisoned set is not what was asked for.
            DivergedError: training diverged.
        """

    def follow(self, config: TrialConfig, data: Data, session: TrialSession) -> None:
        """The part of every rank but the first in a trial by several workers."""
        raise InputError(f"model {config.model.name} cannot be trained by several workers")

    def memory_bytes(self, config: TrialConfig, data: Data) -> int:
        """A low estimate of the memory that a trial needs; 0: not known."""
        return 0

    @abstractmethod
    def cost_key(self, config: TrialConfig) -> tuple[object, ...]:
        """Equal for trials whose unit of work takes equally long."""

    @abstractmethod
    def unit_seconds(self, config: TrialConfig, data: Data) -> float:
        """Seconds of one unit of work (an image trained on, a fit) in one thread, measured here."""

    @abstractmethod
    def units(self, config: TrialConfig, data: Data) -> float:
        """Units of work in the trial."""

    @abstractmethod
    def figures(self, history: History, title: str) -> "dict[str, Figure]":
        """Pictures of how training went, by their names as files."""


def spec_of(config: TrialConfig, data: Data) -> PoisonSpec:
    """What the attacker of `config` does to `data`, with the trigger that is made from its training images."""
    return PoisonSpec(config.attack, config.poison_rate, config.seed).on(data.train, len(data.classes))


def poisoned_sets(config: TrialConfig, data: Data, spec: PoisonSpec | None = None) -> tuple[Poisoned, Images]:
    """The training set as the attacker leaves it, with its manifest, and the triggered test images.

    `spec` is that of `spec_of`, or with a trigger that was learnt since. What is poisoned anew for an epoch is verified
    then.

    Raises:
        PoisoningError: the poisoned set is not what was asked for.
    """
    spec, classes = spec or spec_of(config, data), len(data.classes)
    poisoned = _verified(spec, data.train, classes)
    if isinstance(images := poisoned.images, RepoisonedImages):
        anew = replace(images, renew=lambda epoch: _verified(replace(spec, epoch=epoch), data.train, classes).images)
        poisoned = replace(poisoned, images=anew)
    return poisoned, spec.triggered(data.test, classes)


def _verified(spec: PoisonSpec, clean: Images, classes: int) -> Poisoned:
    poisoned = spec.poison(clean, classes)
    return replace(poisoned, manifest=verify_poisoning(spec, clean, poisoned, classes))


def triggered_validation(config: TrialConfig, data: Data, spec: PoisonSpec | None = None) -> Images | None:
    """The images of `data` that are set aside, with the trigger, labelled with what the attacker wants of them."""
    if data.validation is None or isinstance(config.attack, NoAttack):
        return None
    return (spec or spec_of(config, data)).triggered(data.validation, len(data.classes))


def measure(config: TrialConfig, context: MetricContext) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Accuracy and the metrics of `config`: numbers, and arrays by name/epoch."""
    numbers: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    for metric in (Accuracy(), *config.metrics):
        context.heartbeat()
        if context.last or metric.every_probe:
            for name, value in metric.measure(context).items():
                if isinstance(value, Tensor):
                    arrays[f"{name}/{context.epoch}"] = value.cpu()
                else:
                    numbers[name] = value
    return numbers, arrays


def result_of(
    context: MetricContext, metrics: dict[str, float], arrays: dict[str, Tensor], suspects: Suspects | None = None
) -> TrialResult:
    """The result of a trial whose last measurement was of `context`."""
    return TrialResult(
        metrics=metrics,
        manifest=context.poisoned.manifest,
        table=per_sample(context),
        roles=context.poisoned.roles,
        examples=examples_of(context),
        model=context.model,
        arrays=arrays,
        suspects=suspects,
        classes=context.data.classes,
    )
