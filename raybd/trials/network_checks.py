"""Checks of the settings of trials that train a network."""

from functools import cache

import torch
from torch import nn

from raybd.attacks import ATTACKS
from raybd.convex import LEARNERS
from raybd.defences import DEFENCES, Defence, NoDefence
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.models import Classifier, feature_problem, sketch_model
from raybd.models.activation_memory import activation_bytes
from raybd.models.base import Shape
from raybd.plugins import name_of
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig


def setting_problems(config: TrialConfig) -> list[str]:
    """Settings of convex fits; probes, a beta, workers or a twin that the training does not go with."""
    found = [f"recipe published is for convex learners ({', '.join(LEARNERS)})"] * (config.recipe == "published")
    found += _twin_problems(config) + _probe_problems(config) + _beta_problems(config) + _attacker_problems(config)
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
def network_problems(
    model: ModelConfig, defence: Defence, features: tuple[str, ...], workers: int, shape: Shape, classes: int
) -> tuple[str, ...]:
    """Why the network cannot be built for images of `shape`, trained under `defence` or by several `workers`, or
    measured by the metrics called `features`, which read its features.

    Built once for each such question, without weights where it is raybd's; `network_problems.cache_clear()` forgets.
    """
    try:
        network = sketch_model(model.name, shape, classes, **model.network_settings)
        if network is None:
            return ()
        found = _missing(model, network, features, workers)
        with torch.random.fork_rng(devices=[]), torch.device(next(network.parameters(), torch.empty(0)).device):
            defence.network(network)
    except InputError as error:
        return tuple(error.problems)
    except NotImplementedError:  # of a defence that reads weights of a network that suits it
        pass
    return tuple(found)


def _missing(model: ModelConfig, network: nn.Module, features: tuple[str, ...], workers: int) -> list[str]:
    found = []
    if workers > 1 and not any(weight.requires_grad for weight in network.parameters()):
        found.append(f"model {model.name} has no trainable weights: {workers} workers cannot share it")
    if features and (problem := feature_problem(network)):
        found.append(f"{', '.join(features)} needs features, and model {model.name} tells none: {problem}")
    if features and isinstance(network, Classifier) and network.noise != model.noise:
        found.append(
            f"{', '.join(features)} needs features that are read with noise, and model {model.name} adds its own: let "
            "its function have no parameter noise, or return a raybd.models.Classifier that is given it"
        )
    return found


@cache
def network_bytes(model: ModelConfig, shape: Shape, classes: int) -> tuple[int, int]:
    """Bytes of the weights of a network, and of the activations of its layers for one image; 0 where not known."""
    network = sketch_model(model.name, shape, classes, **model.network_settings)
    if network is None:
        return 0, 0
    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return weights, activation_bytes(network, shape, gradients=True)


def crop_problems(config: TrialConfig, shape: Shape) -> list[str]:
    """A crop that can leave nothing of an image."""
    side = min(shape[1:])
    if config.train.crop <= side:
        return []
    return [f"a crop by {config.train.crop} pixels leaves nothing of images of {shape[1]}x{shape[2]}: at most {side}"]


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
    if any(member.attack.needs_the_loop() for member in config.attack.members()):
        found.append("an attack that poisons anew in every epoch cannot be weighted by beta")
    return found


def _attacker_problems(config: TrialConfig) -> list[str]:
    """A defence or workers in the place of an attacker who trains the network."""
    if not (config.poison_rate and config.attack.controls_training()):
        return []
    found, attack, defence = [], name_of(ATTACKS, config.attack), name_of(DEFENCES, config.defence)
    if not config.defence.after_training:
        allowed = ", ".join(name for name, one in DEFENCES.items() if one.after_training)
        found.append(
            f"attack {attack} trains the network itself, and so would defence {defence}: after such an attacker come "
            f"{allowed} (or choose {attack}:static, whose trigger is learnt beforehand)"
        )
    if config.train.workers > 1:
        found.append(
            f"attack {attack} trains the network itself, in one process: not by {config.train.workers} workers"
        )
    return found
