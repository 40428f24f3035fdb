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

from raybd import convex_trial
from raybd.attacks.poisoning import Recipe
from raybd.attacks.verification import inspect
from raybd.data.split import split_validation
from raybd.defences import Scene
from raybd.defences.audit import Suspects, audit, most_suspected
from raybd.defences.base import SUSPICION
from raybd.errors import DivergedError, InputError
from raybd.metrics import Accuracy
from raybd.metrics.accuracy import per_sample
from raybd.metrics.base import Journal
from raybd.models import build_model
from raybd.models.noise import own_draws
from raybd.seeds import derive
from raybd.training import Checkpoint, Epoch, predict, probe_schedule
from raybd.training.weighting import Flagged
from raybd.trials.config import TrialConfig
from raybd.trials.twins import Twin, Twins
from raybd.types import POISON, Data, Evidence, Images, Poisoned, Report

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
    beat: Callable[[], None] = lambda: None,
    earlier: Journal = (),
    workers: int = 1,
) -> TrialResult:
    """Poison, train under the defence, measure at every probe; runs on the device where `data` lies.

    `shared` is a folder for what other trials can use: clean twins, encoders of defences; `beat` is called while
    such work goes on; `earlier` is the journal of the epochs before `checkpoint`; `workers` train the network together.

    Raises:
        InputError: the config does not fit the data.
        GateError: the poisoned set is not what was asked for.
        DivergedError: training led nowhere.
    """
    check_trial(config, data, workers)
    start = time.perf_counter()
    data = _validated(config, data)
    if config.model.convex:
        return _solved(config, data, start, report, beat)
    recipe, classes = Recipe(config.attack, config.poison_rate, config.seed), len(data.classes)
    poisoned = recipe.poison(data.train, classes)
    poisoned = replace(poisoned, manifest=inspect(recipe, data.train, poisoned, classes))
    triggered = recipe.triggered(data.test, classes)
    model = _model(config, data)
    metrics: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    journal = list(earlier)
    probes = set(config.probes or probe_schedule(config.train.epochs))
    with tempfile.TemporaryDirectory() as folder:
        at = partial(_scene, config, data, shared and shared / "encoders", beat, workers)
        twin = _twin(config, at, probes, shared, Path(folder), beat)
        scene = at(model, poisoned, checkpoint)
        replayed = twin.replay(model, probes, scene.findings) if twin and not config.poison_rate else None
        for epoch in replayed or config.defence.train(scene):
            metrics = {"loss/train": epoch.loss, "seconds/trial": time.perf_counter() - start} | epoch.numbers
            new: dict[str, Tensor] = {}
            if epoch.last or epoch.number in probes:
                seen = replace(_evidence(config, model, data, poisoned, triggered, epoch, twin), beat=beat)
                numbers, new = _measure(config, seen)
                metrics, arrays = metrics | numbers, arrays | new
                journal.append({"epoch": epoch.number, "metrics": metrics})
            if epoch.last:
                metrics |= {k: v for metric in config.metrics for k, v in metric.conclude(journal).items()}
                metrics |= audit(scene.findings, poisoned.roles)
            report(Report(epoch.number, metrics, new))
    kept = {f"defence/{name}": found.cpu() for name, found in scene.findings.items()}
    return _result(seen, metrics, arrays | kept, most_suspected(poisoned, scene.findings.get(SUSPICION)))


def check_trial(config: TrialConfig, data: Data, workers: int = 1) -> None:
    """Refuse a config that cannot run on `data`, or not with `workers`, with every reason at once.

    Raises:
        InputError: with the reasons.
    """
    found = config.problems() + config.data_problems(data) + config.team_problems(workers)
    if config.fingerprint not in ("", data.fingerprint):
        found.append(f"the data is {data.fingerprint}, but the trial is about {config.fingerprint}")
    if not found:
        found = convex_trial.problems(config, _validated(config, data))
    if found:
        raise InputError(found)


def at_most(config: TrialConfig, data: Data) -> TrialConfig:
    """`config` at its poison rate, or at the largest that its attack can have on `data`."""
    y = _validated(config, data).train.y
    recipe = Recipe(config.attack, config.poison_rate, config.seed)
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
    shelf: Path | None,
    beat: Callable[[], None],
    workers: int,
    model: nn.Module | None = None,
    poisoned: Poisoned | None = None,
    checkpoint: Checkpoint | None = None,
) -> Scene:
    """What the defender stands before; without a `model` and `poisoned`, a fresh one before the clean training set."""
    images = poisoned.images if poisoned else data.train
    if poisoned and config.train.weighted:  # nobody else is told which is which
        images = Flagged(images.x, images.y, poisoned.roles == POISON)
    roles = poisoned.roles if poisoned else torch.zeros_like(data.train.y, dtype=torch.uint8)
    return Scene(
        model=model or _model(config, data),
        images=images,
        classes=len(data.classes),
        how=config.train,
        seed=config.seed,
        checkpoint=checkpoint,
        trusted=data.validation if config.defence.access == "clean images" else None,
        roles=roles if config.defence.access == "truth" else None,
        shelf=shelf,
        beat=beat,
        workers=workers,
    )


def _solved(
    config: TrialConfig, data: Data, start: float, report: Callable[[Report], None], beat: Callable[[], None]
) -> TrialResult:
    """The trial of a convex learner, which has no epochs: one report."""
    posed = convex_trial.pose(config, data)
    seen, metrics = convex_trial.solve(config, posed)
    numbers, arrays = _measure(config, replace(seen, beat=beat))
    metrics = numbers | metrics | {"seconds/trial": time.perf_counter() - start}
    report(Report(1, metrics))
    return _result(seen, metrics, arrays)


def _result(
    seen: Evidence, metrics: dict[str, float], arrays: dict[str, Tensor], suspects: Suspects | None = None
) -> TrialResult:
    tests = len(seen.data.test)
    return TrialResult(
        metrics=metrics,
        manifest=seen.poisoned.manifest,
        table=per_sample(seen),
        roles=seen.poisoned.roles,
        clean=seen.data.test.take(torch.arange(min(EXAMPLES, tests))),
        triggered=_examples(seen.triggered, tests, len(seen.members)),
        model=seen.model,
        arrays=arrays,
        suspects=suspects,
    )


def _twin(
    config: TrialConfig,
    fresh: Callable[[], Scene],
    probes: set[int],
    shared: Path | None,
    own: Path,
    beat: Callable[[], None],
) -> Twin | None:
    """The clean twin, where a metric compares with it; and where the trial is one, for others to share."""
    if any(metric.needs_twin for metric in config.metrics) or (shared and not config.poison_rate):
        try:
            return Twins((shared or own) / "twins").train(config, fresh, probes, beat)
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
) -> Evidence:
    validation = data.validation
    with own_draws(config.seed, "prediction", epoch.number, device=data.test.x.device):
        clean, stamped = (predict(model, images.x, config.train) for images in (data.test, triggered))
        held_out = None if validation is None else predict(model, validation.x, config.train)
    return Evidence(
        model=model.eval(),
        data=data,
        poisoned=poisoned,
        triggered=triggered,
        measured=Recipe(config.attack, config.poison_rate, config.seed).measured(data.test.y),
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


def _measure(config: TrialConfig, seen: Evidence) -> tuple[dict[str, float], dict[str, Tensor]]:
    if seen.last and not config.model.convex and seen.clean_logits.argmax(1).unique().numel() == 1:
        raise DivergedError(f"the network predicts one class for every test image after epoch {seen.epoch}")
    numbers: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    for metric in (Accuracy(), *config.metrics):
        seen.beat()
        if seen.last or metric.every_probe:
            for name, value in metric.measure(seen).items():
                if isinstance(value, Tensor):
                    arrays[f"{name}/{seen.epoch}"] = value.cpu()
                else:
                    numbers[name] = value
    return numbers, arrays


def _examples(triggered: Images, tests: int, members: int) -> Images:
    """The first test images, with the trigger of each member in turn."""
    index = torch.arange(min(EXAMPLES, tests))
    return triggered.take(index + tests * (index % members))
