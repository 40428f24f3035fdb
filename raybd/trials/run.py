"""One trial on one page: config in, reports out. No Ray, no MLflow."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.verification import verify_poisoning
from raybd.data.split import split_validation
from raybd.defences import TrainingContext
from raybd.defences.audit import Suspects, audit, most_suspected
from raybd.defences.base import SUSPICION
from raybd.errors import DivergedError, InputError
from raybd.metrics import Accuracy
from raybd.metrics.accuracy import per_sample
from raybd.metrics.base import History
from raybd.models import build_model
from raybd.seeds import derive, forked_rng
from raybd.training import Checkpoint, Epoch, predict, probe_schedule
from raybd.training.weighting import Flagged
from raybd.trials import convex
from raybd.trials.config import TrialConfig
from raybd.trials.twins import Twin, clean_twin
from raybd.types import POISON, Data, Images, MetricContext, Poisoned, Report

EXAMPLES = 8  # images in the picture of the trigger


@dataclass(frozen=True)
class TrialResult:
    """What a trial leaves: its last numbers, its tables, and enough to draw the trigger."""

    metrics: dict[str, float]
    manifest: dict[str, Any]
    table: dict[str, Tensor]  # one row a test image
    roles: Tensor  # (N,) uint8, one a training image: CLEAN, POISON or COVER
    clean: Images  # a few test images ...
    triggered: Images  # ... and the same with the trigger
    model: nn.Module
    arrays: dict[str, Tensor] = field(default_factory=dict)  # what metrics keep, as name/epoch, and defences
    suspects: Suspects | None = None  # of a defence that ranks the training images


def run_trial(
    config: TrialConfig,
    data: Data,
    report: Callable[[Report], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    shared: Path | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    earlier: History = (),
    workers: int = 1,
) -> TrialResult:
    """Poison, train under the defence, measure at every probe; runs on the device where `data` lies.

    `shared` is a folder for what other trials can use: clean twins, encoders of defences; `heartbeat` is called while
    such work goes on; `earlier` is the journal of the epochs before `checkpoint`; `workers` train the network together.

    Raises:
        InputError: the config does not fit the data.
        PoisoningError: the poisoned set is not what was asked for.
        DivergedError: training led nowhere.
    """
    check_trial(config, data, workers)
    start = time.perf_counter()
    data = _validated(config, data)
    if config.model.convex:
        return _solved(config, data, start, report, heartbeat)
    recipe, classes = PoisonSpec(config.attack, config.poison_rate, config.seed), len(data.classes)
    poisoned = recipe.poison(data.train, classes)
    poisoned = replace(poisoned, manifest=verify_poisoning(recipe, data.train, poisoned, classes))
    triggered = recipe.triggered(data.test, classes)
    model = _model(config, data)
    metrics: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    history = list(earlier)
    probes = set(config.probes or probe_schedule(config.train.epochs))
    with tempfile.TemporaryDirectory() as folder:
        at = partial(_scene, config, data, shared and shared / "encoders", heartbeat, workers)
        twin = _twin(config, at, probes, shared, Path(folder), heartbeat)
        training = at(model, poisoned, checkpoint)
        replayed = twin.replay(model, probes, training.findings) if twin and not config.poison_rate else None
        for epoch in replayed or config.defence.train(training):
            metrics = {"loss/train": epoch.loss, "seconds/trial": time.perf_counter() - start} | epoch.numbers
            new: dict[str, Tensor] = {}
            if epoch.last or epoch.number in probes:
                context = replace(_evidence(config, model, data, poisoned, triggered, epoch, twin), heartbeat=heartbeat)
                numbers, new = _measure(config, context)
                metrics, arrays = metrics | numbers, arrays | new
                history.append({"epoch": epoch.number, "metrics": metrics})
            if epoch.last:
                metrics |= {k: v for metric in config.metrics for k, v in metric.conclude(history).items()}
                metrics |= audit(training.findings, poisoned.roles)
            report(Report(epoch.number, metrics, new))
    kept = {f"defence/{name}": found.cpu() for name, found in training.findings.items()}
    return _result(context, metrics, arrays | kept, most_suspected(poisoned, training.findings.get(SUSPICION)))


def check_trial(config: TrialConfig, data: Data, workers: int = 1) -> None:
    """Refuse a config that cannot run on `data`, or not with `workers`, with every reason at once.

    Raises:
        InputError: with the reasons.
    """
    found = config.problems() + config.data_problems(data) + config.team_problems(workers)
    if config.fingerprint not in ("", data.fingerprint):
        found.append(f"the data is {data.fingerprint}, but the trial is about {config.fingerprint}")
    if not found:
        found = convex.problems(config, _validated(config, data))
    if found:
        raise InputError(found)


def at_most(config: TrialConfig, data: Data) -> TrialConfig:
    """`config` at its poison rate, or at the largest that its attack can have on `data`."""
    y = _validated(config, data).train.y
    recipe = PoisonSpec(config.attack, config.poison_rate, config.seed)
    if config.poison_rate > 1 or not recipe.check(y):
        return config
    return replace(config, poison_rate=min(config.poison_rate, recipe.largest(y)))


def _validated(config: TrialConfig, data: Data) -> Data:
    if not config.validation:
        return data
    train, validation = split_validation(data.train, config.validation, config.seed)
    return replace(data, train=train, validation=validation)


def _model(config: TrialConfig, data: Data) -> nn.Module:
    torch.manual_seed(derive(config.seed, "initialisation"))
    wanted = config.model
    model = build_model(
        wanted.name,
        data.train.shape,
        len(data.classes),
        data.mean,
        data.std,
        width=wanted.width,
        depth=wanted.depth,
        noise=wanted.noise,
    )
    return config.defence.network(model).to(data.train.x.device)


def _scene(
    config: TrialConfig,
    data: Data,
    cache_folder: Path | None,
    heartbeat: Callable[[], None],
    workers: int,
    model: nn.Module | None = None,
    poisoned: Poisoned | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingContext:
    """What the defender stands before; without a `model` and `poisoned`, a fresh one before the clean training set."""
    images = poisoned.images if poisoned else data.train
    if poisoned and config.train.weighted:  # nobody else is told which is which
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
        cache_folder=cache_folder,
        heartbeat=heartbeat,
        workers=workers,
    )


def _solved(
    config: TrialConfig, data: Data, start: float, report: Callable[[Report], None], heartbeat: Callable[[], None]
) -> TrialResult:
    """The trial of a convex learner, which has no epochs: one report."""
    problem = convex.pose_problem(config, data)
    context, metrics = convex.solve(config, problem)
    numbers, arrays = _measure(config, replace(context, heartbeat=heartbeat))
    metrics = numbers | metrics | {"seconds/trial": time.perf_counter() - start}
    report(Report(1, metrics))
    return _result(context, metrics, arrays)


def _result(
    context: MetricContext, metrics: dict[str, float], arrays: dict[str, Tensor], suspects: Suspects | None = None
) -> TrialResult:
    tests = len(context.data.test)
    return TrialResult(
        metrics=metrics,
        manifest=context.poisoned.manifest,
        table=per_sample(context),
        roles=context.poisoned.roles,
        clean=context.data.test.take(torch.arange(min(EXAMPLES, tests))),
        triggered=_examples(context.triggered, tests, len(context.members)),
        model=context.model,
        arrays=arrays,
        suspects=suspects,
    )


def _twin(
    config: TrialConfig,
    fresh: Callable[[], TrainingContext],
    probes: set[int],
    shared: Path | None,
    own: Path,
    heartbeat: Callable[[], None],
) -> Twin | None:
    """The clean twin, where a metric compares with it; and where the trial is one, for others to share."""
    if any(metric.needs_twin for metric in config.metrics) or (shared and not config.poison_rate):
        try:
            return clean_twin(config, fresh, probes, (shared or own) / "twins", heartbeat)
        except DivergedError as error:
            raise DivergedError(f"the clean twin: {error}") from error
    return None


def _evidence(
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
    return MetricContext(
        model=model.eval(),
        data=data,
        poisoned=poisoned,
        triggered=triggered,
        measured=PoisonSpec(config.attack, config.poison_rate, config.seed).measured(data.test.y),
        clean_logits=clean,
        triggered_logits=stamped,
        validation_logits=held_out,
        members=tuple(member.name for member in config.attack.members()),
        seed=config.seed,
        epoch=epoch.number,
        last=epoch.last,
        twin=_control(config, data, model, twin, epoch.number),
    )


def _control(config: TrialConfig, data: Data, model: nn.Module, twin: Twin | None, epoch: int) -> nn.Module | None:
    """The clean twin's network: the trial's own where it is one."""
    if twin is None or not config.poison_rate:
        return model if twin else None
    with torch.random.fork_rng():
        return twin.load(_model(config, data), epoch)


def _measure(config: TrialConfig, context: MetricContext) -> tuple[dict[str, float], dict[str, Tensor]]:
    if context.last and not config.model.convex and context.clean_logits.argmax(1).unique().numel() == 1:
        raise DivergedError(f"the network predicts one class for every test image after epoch {context.epoch}")
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


def _examples(triggered: Images, tests: int, members: int) -> Images:
    """The first test images, with the trigger of each member in turn."""
    index = torch.arange(min(EXAMPLES, tests))
    return triggered.take(index + tests * (index % members))
