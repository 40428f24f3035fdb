"""The trials of a sweep of learning curves: convex learners on pairs of classes, and networks over beta."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

from raybd.attacks import Attack, BadNets, describe
from raybd.command_line.curve_options import CurveAxes, CurveOptions
from raybd.command_line.grid import all_combinations, attacks_of, check, distinct, network_trials
from raybd.command_line.groups import DataOptions
from raybd.convex import LEARNERS
from raybd.data import load
from raybd.data.class_names import Label, numbers_of
from raybd.data.subset import Subset, parse
from raybd.errors import InputError
from raybd.metrics.learning_curves import LearningCurves
from raybd.trials.config import ModelConfig, TrialConfig

NUMBERS = re.compile(r"(\d+)-(\d+)")


def expand_curves(options: CurveOptions) -> list[TrialConfig]:
    """Every trial of the sweep, clean twins first.

    Raises:
        InputError: with everything wrong with the options.
    """
    check(options)
    trials, data = _convex_trials(options), data_sets(options.dataset, options.curves)
    for name, model in product(data, [name for name in distinct(options.curves.models) if name not in LEARNERS]):
        trials += _network_trials(options.replace(data=name, model=model))
    return sorted(trials, key=lambda trial: trial.poison_rate)


def _convex_trials(options: CurveOptions) -> list[TrialConfig]:
    """The learners of one poisoned set one after another: they share its inner products."""
    curves = options.curves
    learners = [model for name in distinct(curves.models) if name in LEARNERS for model in _learners(curves, name)]
    axes = _rates(options), data_sets(options.dataset, curves), _attacks(options), _seeds(options), learners
    return [
        TrialConfig(
            data=data,
            validation=options.dataset.validation,
            attack=attack,
            poison_rate=rate,
            recipe="published" if curves.recipe == "published" else "raybd",
            model=model,
            metrics=(LearningCurves(betas=options.training.betas),),
            seed=seed,
        )
        for rate, data, attack, seed, model in all_combinations(*axes)
    ]


def _learners(curves: CurveAxes, name: str) -> list[ModelConfig]:
    if name == "svm_rbf":
        return [ModelConfig(name=name, C=c, gamma=gamma) for gamma, c in product(curves.gammas, curves.Cs_rbf)]
    return [ModelConfig(name=name, C=c) for c in curves.Cs]


def _network_trials(options: CurveOptions) -> list[TrialConfig]:
    """The trials of a network, as in any other sweep, with its learning curve measured."""
    named = [text for text in options.measures.metrics if not text.startswith("learning_curves")]
    chosen = options.replace(metrics=(*named, "learning_curves"), poison_rates=_rates(options))
    return network_trials(chosen, _attacks(options), _seeds(options))


def data_sets(options: DataOptions, curves: CurveAxes) -> list[str]:
    """The parts of the data set, one a pair.

    Raises:
        InputError: the data set is a part already, or has no class of a pair's names.
    """
    whole, part = parse(options.data)
    if not curves.pairs:
        return [options.data]
    if part is not None:
        raise InputError(f"--data {options.data} is a part already: give --pairs or a part, not both")
    numbers = [NUMBERS.fullmatch(text) for text in curves.pairs]
    classes = () if all(numbers) else load(whole, options.data_root, options.resize).classes
    pairs: list[tuple[int, int]] = []
    for text, found in zip(curves.pairs, numbers, strict=True):
        if text == "all":
            pairs += combinations(range(len(classes)), 2)
        else:
            pairs.append((int(found[1]), int(found[2])) if found else _named_pair(text, classes))
    return [f"{whole}{Subset(pair, curves.train_images)}" for pair in distinct(pairs)]


def _named_pair(text: str, classes: Sequence[str]) -> tuple[int, int]:
    """The pair that `text`, two names with a hyphen between, is of; a name may have hyphens too.

    Raises:
        InputError: `text` is no such pair, or could be several.
    """
    parts = text.split("-")
    splits = [("-".join(parts[:k]), "-".join(parts[k:])) for k in range(1, len(parts))]
    known = [pair for pair in splits if all(one in classes or one.isdecimal() for one in pair)]
    if len(known) > 1:
        said = " or ".join(map(" and ".join, known))
        raise InputError(f"--pairs {text} could be {said}: give the numbers, as 7-1")
    first, second = numbers_of(map(_label, (known or splits)[0]), classes)
    return first, second


def _label(text: str) -> Label:
    return int(text) if text.isdecimal() else text


def _rates(options: CurveOptions) -> tuple[float, ...]:
    return tuple(sorted({0.0, *options.attack.poison_rates}))


def _seeds(options: CurveOptions) -> Sequence[int]:
    return options.curves.seed_values or range(options.training.seeds)


def _attacks(options: CurveOptions) -> list[Attack]:
    """The attacks at every size, where they have one."""
    found: list[Attack] = []
    for attack in attacks_of(options.attack):
        if isinstance(attack, BadNets) and options.curves.trigger_size:
            found += [replace(attack, size=size) for size in options.curves.trigger_size]
        else:
            found.append(attack)
    return list({describe(attack): attack for attack in found}.values())
