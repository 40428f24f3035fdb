"""One trial on one page: config in, reports out. No Ray, no MLflow."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raybd.attacks.gate import inspect
from raybd.attacks.recipe import Recipe
from raybd.config import TrialConfig
from raybd.data.split import split_validation
from raybd.errors import DivergedError, InputError
from raybd.metrics import METRICS
from raybd.metrics.accuracy import per_sample
from raybd.models import build_model
from raybd.seeds import derive
from raybd.training import Checkpoint, Epoch, predict, probe_schedule
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


def run_trial(
    config: TrialConfig,
    data: Data,
    report: Callable[[Report], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> TrialResult:
    """Poison, train under the defence, measure at every probe; runs on the device where `data` lies.

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
    probes = set(config.probes or probe_schedule(config.train.epochs))
    for epoch in config.defence.train(model, poisoned.images, config.train, config.seed, checkpoint):
        metrics = {"loss/train": epoch.loss, "seconds/trial": time.perf_counter() - start}
        if epoch.last or epoch.number in probes:
            seen = _evidence(config, model, data, poisoned, triggered)
            metrics |= _measure(seen, epoch)
        report(Report(epoch.number, metrics))
    some = slice(0, EXAMPLES)
    return TrialResult(
        metrics=metrics,
        manifest=poisoned.manifest,
        table=per_sample(seen),
        roles=poisoned.roles,
        clean=Images(data.test.x[some], data.test.y[some]),
        triggered=Images(triggered.x[some], triggered.y[some]),
        model=model,
    )


def check_trial(config: TrialConfig, data: Data) -> None:
    """Refuse a config that cannot run on `data`, with every reason at once.

    Raises:
        InputError: with the reasons.
    """
    found = config.problems() + config.data_problems(data.train.shape, len(data.classes))
    if config.fingerprint not in ("", data.fingerprint):
        found.append(f"the data is {data.fingerprint}, but the trial is about {config.fingerprint}")
    if not found:
        train = _validated(config, data).train
        found = Recipe(config.attack, config.poison_rate, config.seed).check(train.y)
    if found:
        raise InputError(found)


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
    )
    return model.to(data.train.x.device)


def _evidence(config: TrialConfig, model: nn.Module, data: Data, poisoned: Poisoned, triggered: Images) -> Evidence:
    validation = data.validation
    return Evidence(
        model=model,
        data=data,
        poisoned=poisoned,
        triggered=triggered,
        measured=config.attack.measured(data.test.y),
        clean_logits=predict(model, data.test.x, config.train),
        triggered_logits=predict(model, triggered.x, config.train),
        validation_logits=None if validation is None else predict(model, validation.x, config.train),
    )


def _measure(seen: Evidence, epoch: Epoch) -> dict[str, float]:
    if epoch.last and seen.clean_logits.argmax(1).unique().numel() == 1:
        raise DivergedError(f"the network predicts one class for every test image after epoch {epoch.number}")
    return {name: value for metric in METRICS.values() for name, value in metric(seen).items()}
