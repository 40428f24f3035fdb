"""Checks of the settings of trials that train a network."""

from functools import cache
from typing import Any

import torch

from raybd.convex import LEARNERS
from raybd.defences import DEFENCES, NoDefence
from raybd.metrics import METRICS
from raybd.models import build_model
from raybd.plugins import name_of
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig


def setting_problems(config: TrialConfig) -> list[str]:
    """Settings of convex fits; probes, a beta, workers or a twin that the training does not go with."""
    found = [f"recipe published is for convex learners ({', '.join(LEARNERS)})"] * (config.recipe == "published")
    found += _twin_problems(config) + _probe_problems(config) + _beta_problems(config)
    return found + _data_parallel_problems(config)


def _twin_problems(config: TrialConfig) -> list[str]:
    """A training that ends early, where a metric compares it with its clean twin."""
    comparing = [name_of(METRICS, metric) for metric in config.metrics if metric.needs_twin]
    if not (config.train.patience and comparing):
        return []
    return [f"patience would part a trial from its clean twin, and {', '.join(comparing)} compare them"]


def _data_parallel_problems(config: TrialConfig) -> list[str]:
    """A training or batches that workers cannot share; batch norm over all of one worker."""
    train, found = config.train, []
    if train.workers > 1 and not config.defence.parallel:
        name = name_of(DEFENCES, config.defence)
        found.append(f"defence {name} has no training that {train.workers} workers could share: give its trials one")
    if train.batch_size < 2 * train.workers:  # batch norm cannot take a lone image
        found.append(f"batch size {train.batch_size} is too small for {train.workers} workers: each needs 2 images")
    if train.sync_batch_norm and train.workers == 1:
        found.append("sync_batch_norm needs several workers")
    return found


@cache
def is_trainable(model: ModelConfig, shape: tuple[int, int, int], classes: int) -> bool:
    """Whether the network has a weight that training changes."""
    ones = [1.0] * shape[0]
    settings: dict[str, Any] = {"width": model.width, "depth": model.depth, "noise": model.noise}
    with torch.random.fork_rng(devices=[]):
        network = build_model(model.name, shape, classes, ones, ones, **settings)
    return any(weight.requires_grad for weight in network.parameters())


def _probe_problems(config: TrialConfig) -> list[str]:
    """Probes at epochs that the training does not have."""
    last = config.train.epochs
    return [f"probe epoch {p} is not among the epochs 1 to {last}" for p in config.probes if not 1 <= p <= last]


def _beta_problems(config: TrialConfig) -> list[str]:
    """Why poison cannot be weighted as the training asks for."""
    if not config.train.weighted:
        return []
    found = []
    if not 0 < config.poison_rate < 1:
        found.append(f"at poison rate {config.poison_rate:g} beta weighs nothing: it must be 1, in mode sample")
    if not isinstance(config.defence, NoDefence):
        found.append("a training that weighs poison by beta cannot have a defence")
    if any(member.attack.repoisons_each_epoch() for member in config.attack.members()):
        found.append("an attack that poisons other images in every epoch cannot be weighted by beta")
    return found
