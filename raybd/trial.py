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

from raybd.attacks.gate import inspect
from raybd.attacks.recipe import Recipe
from raybd.config import TrialConfig
from raybd.data.split import split_validation
from raybd.errors import DivergedError, InputError
from raybd.metrics import Accuracy
from raybd.metrics.accuracy import per_sample
from raybd.metrics.base import Journal
from raybd.models import build_model
from raybd.models.noise import own_draws
from raybd.seeds import derive
from raybd.training import Checkpoint, Epoch, predict, probe_schedule
from raybd.twins import Twin, Twins
from raybd.types import Data, Evidence, Images, Poisoned, Report

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
    arrays: dict[str, Tensor] = field(default_factory=dict)  # what metrics keep, as name/epoch


def run_trial(
    config: TrialConfig,
    data: Data,
    report: Callable[[Report], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
    twins: Twins | None = None,
    beat: Callable[[], None] = lambda: None,
    earlier: Journal = (),
) -> TrialResult:
    """Poison, train under the defence, measure at every probe; runs on the device where `data` lies.

    `twins` keeps the networks of clean twins for other trials; `beat` is called while one is trained; `earlier` is
    the journal of the epochs before `checkpoint`.

    Raises:
        InputError: the config does not fit the data.
        GateError: the poisoned set is not what was asked for.
        DivergedError: training led nowhere.
    """
    check_trial(config, data)
    start = time.perf_counter()
    data = _validated(config, data)
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
        twin = _twin(config, data, probes, twins or Twins(Path(folder)), twins is not None, beat)
        train = partial(config.defence.train, model, poisoned.images, config.train, config.seed, checkpoint)
        epochs = twin.replay(model, probes) if twin and not config.poison_rate else train()
        for epoch in epochs:
            metrics = {"loss/train": epoch.loss, "seconds/trial": time.perf_counter() - start}
            if epoch.last or epoch.number in probes:
                seen = _evidence(config, model, data, poisoned, triggered, epoch, twin)
                numbers, kept = _measure(config, seen)
                metrics, arrays = metrics | numbers, arrays | kept
                journal.append({"epoch": epoch.number, "metrics": metrics})
            if epoch.last:
                metrics |= {k: v for metric in config.metrics for k, v in metric.conclude(journal).items()}
            report(Report(epoch.number, metrics))
    return TrialResult(
        metrics=metrics,
        manifest=poisoned.manifest,
        table=per_sample(seen),
        roles=poisoned.roles,
        clean=data.test.take(torch.arange(min(EXAMPLES, len(data.test)))),
        triggered=_examples(triggered, len(data.test), len(seen.members)),
        model=model,
        arrays=arrays,
    )


def check_trial(config: TrialConfig, data: Data) -> None:
    """Refuse a config that cannot run on `data`, with every reason at once.

    Raises:
        InputError: with the reasons.
    """
    found = config.problems() + config.data_problems(data)
    if config.fingerprint not in ("", data.fingerprint):
        found.append(f"the data is {data.fingerprint}, but the trial is about {config.fingerprint}")
    if not found:
        train = _validated(config, data).train
        found = Recipe(config.attack, config.poison_rate, config.seed).check(train.y)
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
    return model.to(data.train.x.device)


def _twin(
    config: TrialConfig, data: Data, probes: set[int], twins: Twins, shared: bool, beat: Callable[[], None]
) -> Twin | None:
    """The clean twin, where a metric compares with it; and where the trial is one, for others to share."""
    if any(metric.needs_twin for metric in config.metrics) or (shared and not config.poison_rate):
        try:
            return twins.train(config, partial(_model, config, data), data, probes, beat)
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
    if seen.last and seen.clean_logits.argmax(1).unique().numel() == 1:
        raise DivergedError(f"the network predicts one class for every test image after epoch {seen.epoch}")
    numbers: dict[str, float] = {}
    arrays: dict[str, Tensor] = {}
    for metric in (Accuracy(), *config.metrics):
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
