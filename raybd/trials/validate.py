"""Validation of trials, before any work: every problem of configs and data at once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybd.attacks import NoAttack, describe
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import check_name, load, split_validation
from raybd.data.class_names import with_numbers
from raybd.data.residency import place
from raybd.data.subset import parse as parse_data
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.plugins import name_of
from raybd.trials.config import TrialConfig
from raybd.trials.contents import with_contents
from raybd.trials.kinds import kind_of
from raybd.trials.network_checks import network_problems
from raybd.types import Data
from raybd.utils.constraints import mistyped, violations
from raybd.utils.memory import LARGEST, format_bytes


def check_trial(config: TrialConfig, data: Data) -> None:
    """Refuse a config that cannot run on `data`, with every reason at once.

    Raises:
        InputError: with the reasons.
    """
    network_problems.cache_clear()
    found = problems(config) + data_problems(config, data)
    if found := found or _poison_problems(config, data):
        raise InputError(found)


def problems(config: TrialConfig) -> list[str]:
    """Everything wrong with `config` that can be told without its data."""
    if bad := mistyped(config) + mistyped(config.model, f"model {config.model.name}: ") + mistyped(config.train):
        return bad
    found = check_name(config.data) + violations(config) + config.model.problems() + violations(config.train)
    if isinstance(config.attack, NoAttack) and config.poison_rate:
        found.append(f"attack none cannot poison: its rate must be 0, not {config.poison_rate:g}")
    names = [name_of(METRICS, metric) for metric in config.metrics]
    found += [f"metric {name} is asked for twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    return found + _clean_problems(config) + kind_of(config).problems(config)


def data_problems(config: TrialConfig, data: Data) -> list[str]:
    """Everything wrong with `config` on `data`, but for the poison rate."""
    found = config.attack.check(data.train.shape, len(data.classes))
    found += [] if found else _count_problems(config, data)
    found += kind_of(config).data_problems(config, data)
    found += [problem for metric in config.metrics for problem in metric.problems(data, config.model.noise)]
    if config.fingerprint not in ("", data.fingerprint):
        found.append(f"the data is {data.fingerprint}, but the trial is about {config.fingerprint}")
    return found


def with_class_numbers(config: TrialConfig, data: Data) -> TrialConfig:
    """`config` with numbers in place of the names of classes of `data`: both ways of writing are one trial.

    Raises:
        InputError: with every name that is not of a class.
    """
    subset = parse_data(config.data)[1]
    known = {
        "data": data.name if subset and subset.has_names else config.data,
        "attack": config.attack.with_class_numbers(data.classes),
        "defence": with_numbers(config.defence, data.classes),
        "metrics": tuple(with_numbers(metric, data.classes) for metric in config.metrics),
    }
    changed: dict[str, Any] = {name: value for name, value in known.items() if value != getattr(config, name)}
    return replace(config, **changed) if changed else config


def _count_problems(config: TrialConfig, data: Data) -> list[str]:
    """Metrics that want more triggered test images than the attack counts."""
    counted = sum(int(member.attack.measured(data.test.y).sum()) for member in config.attack.members())
    return [
        f"{name_of(METRICS, metric)}: {metric.min_triggered} points are asked for, and the success of "
        f"{describe(config.attack)} counts {counted} test images"
        for metric in config.metrics
        if metric.min_triggered > counted
    ]


def _poison_problems(config: TrialConfig, data: Data) -> list[str]:
    return kind_of(config).poison_problems(config, without_validation(config, data))


def _memory_problems(config: TrialConfig, data: Data, memory: int) -> list[str]:
    need = kind_of(config).memory_bytes(config, data)
    if need <= memory:
        return []
    model, batch = f"{config.model.name} of width {config.model.width:g}", config.train.batch_size
    return [
        f"model {model} with batches of {batch} needs {format_bytes(need)} of memory or more, and there are "
        f"{format_bytes(memory)} (on larger machines than this one: --address)"
    ]


def _clean_problems(config: TrialConfig) -> list[str]:
    """Problems with the clean images that the defence needs."""
    wanted, given = config.defence.clean_share, config.validation
    if config.defence.access != "clean images" or (given > 0 and given >= wanted):
        return []
    least = f"at least {wanted:g}, its share of clean images" if wanted else "above 0"
    name = name_of(DEFENCES, config.defence)
    return [f"defence {name} needs clean images: validation must be {least}, got {given:g}"]


def without_validation(config: TrialConfig, data: Data) -> Data:
    """`data` with the validation images of `config` taken out of the training set."""
    if not config.validation:
        return data
    train, validation = split_validation(data.train, config.validation, config.seed)
    return replace(data, train=train, validation=validation)


def at_most(config: TrialConfig, data: Data) -> TrialConfig:
    """`config` at its poison rate, or at the largest that its attack can have on `data`."""
    y = without_validation(config, data).train.y
    spec = PoisonSpec(config.attack, config.poison_rate, config.seed)
    if config.poison_rate > 1 or not spec.check(y):
        return config
    return replace(config, poison_rate=min(config.poison_rate, spec.largest(y)))


def prepare(
    configs: Sequence[TrialConfig],
    data_root: str | Path | None = None,
    lower: bool = False,
    image_bytes: float = math.inf,
    memory: int = LARGEST,
) -> tuple[list[TrialConfig], dict[str, Data]]:
    """The configs with the fingerprint of their data and the contents of their files, each once, and the data by
    `TrialConfig.image_set`.

    `lower`: poison rates that an attack cannot have on the data become the largest that it can, which is printed.
    `image_bytes`: what the images of a trial may take of the memory; a larger set is streamed from the disk.
    `memory`: bytes that a trial may take, by a low estimate.

    Raises:
        NoDataError: a data set is not on this machine.
        InputError: with everything that is wrong with any of them; no trial could start.
    """
    found = [problem for config in configs for problem in problems(config)]
    if found or not configs:
        raise InputError(list(dict.fromkeys(found)) or "the sweep has no trials")
    network_problems.cache_clear()  # the user may have mended what it is about
    wanted = {config.image_set: (config.data, config.resize) for config in configs}
    data = {key: place(load(name, data_root, size), image_bytes) for key, (name, size) in wanted.items()}
    known, data = _with_data(configs, data)
    known = _lowered(known, data) if lower else known
    for config in known:
        one = data[config.image_set]
        found += data_problems(config, one) or _memory_problems(config, one, memory) or _poison_problems(config, one)
    if found:
        raise InputError(list(dict.fromkeys(found)))
    return list({config.key: config for config in with_contents(known, data)}.values()), data


def _with_data(configs: Sequence[TrialConfig], data: dict[str, Data]) -> tuple[list[TrialConfig], dict[str, Data]]:
    """The configs with the fingerprints of their data and the numbers of its classes, and the data by their image sets.

    Raises:
        InputError: with every name that no class has.
    """
    known, problems = [], dict[str, None]()
    for config in configs:
        try:
            numbered = with_class_numbers(config, data[config.image_set])
            known.append(replace(numbered, fingerprint=data[config.image_set].fingerprint))
        except InputError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise InputError(problems)
    return known, {new.image_set: data[old.image_set] for old, new in zip(configs, known, strict=True)}


def _lowered(configs: Sequence[TrialConfig], data: dict[str, Data]) -> list[TrialConfig]:
    lowered = [at_most(config, data[config.image_set]) for config in configs]
    messages = {
        f"{describe(old.attack)}: a poison rate of {old.poison_rate:g} is too large: lowered to {new.poison_rate:.4g}"
        for old, new in zip(configs, lowered, strict=True)
        if old != new
    }
    for line in sorted(messages):
        print(line, flush=True)
    return lowered
