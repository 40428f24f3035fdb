"""The trials of a sweep: every combination of the values on the axes of its options."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

from raybd.attacks import ATTACKS, Attack, NoAttack, parse
from raybd.command_line.groups import MOST_TRIALS, AttackOptions, NetworkOptions
from raybd.command_line.options import SweepOptions
from raybd.data import augmentation, load
from raybd.data.class_names import number_of
from raybd.data.subset import parse as parse_data
from raybd.defences import DEFENCES, Defence
from raybd.defences.none import NoDefence
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.models import MODELS
from raybd.plugins import parse as parse_plugin
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig

DECAYS = {"digits": (5e-4, 0.02, 0.05)}  # few steps regularise little: the map's edge lies at large values
USUAL_DECAYS = (5e-4, 5e-3)
AXES = {  # of trainings: setting -> option
    "weight_decay": "weight_decays",
    "epochs": "epochs",
    "learning_rate": "learning_rates",
    "batch_size": "batch_sizes",
    "crop": "crop",
    "flip": "flip",
    "beta": "betas",
}
# settings with one value in a sweep
FIXED = ("optimizer", "beta_mode", "schedule", "patience", "precision", "deterministic", "sync_batch_norm")
T = TypeVar("T")


def expand(options: SweepOptions) -> list[TrialConfig]:
    """Every trial of the sweep, clean twins first.

    Raises:
        InputError: with everything wrong with the options.
    """
    check(options)
    return network_trials(options)


def check(options: SweepOptions) -> None:
    """Refuse options that no trial can have.

    Raises:
        InputError: with everything wrong with them.
    """
    if found := options.problems() + _defence_problems(options):
        raise InputError(found)


def _defence_problems(options: SweepOptions) -> list[str]:
    """Rates and weight decays of defences that are not on the axes."""
    decays = options.training.weight_decays or DECAYS.get(parse_data(options.dataset.data)[0], USUAL_DECAYS)
    wanted = {
        "--defence-rates": (options.training.defence_rates, "--poison-rates", options.attack.poison_rates),
        "--defence-weight-decays": (options.training.defence_weight_decays, "--weight-decays", decays),
    }
    return [
        f"{flag} must be of {axis} ({', '.join(f'{one:g}' for one in allowed)}), got {value:g}"
        for flag, (values, axis, allowed) in wanted.items()
        for value in values
        if value not in allowed
    ]


def network_trials(
    options: SweepOptions, attacks: Sequence[Attack] | None = None, seeds: Sequence[int] | None = None
) -> list[TrialConfig]:
    """Rates x attacks x defences x seeds x networks x trainings, in this order; `attacks` and `seeds` where given
    in place of those of the options."""
    training, measures = options.training, options.measures
    metrics = tuple(parse_plugin("metric", METRICS, text) for text in measures.metrics)
    axes = (
        sorted(options.attack.poison_rates),
        attacks_of(options.attack) if attacks is None else attacks,
        [parse_plugin("defence", DEFENCES, text) for text in training.defence_names],
        range(training.seeds) if seeds is None else seeds,
        networks(options.network),
        trainings(options),
    )
    return [
        TrialConfig(
            data=options.dataset.data,
            resize=options.dataset.resize,
            validation=options.dataset.validation,
            attack=attack,
            poison_rate=rate,
            model=model,
            train=train if rate else replace(train, beta=1.0, beta_mode="sample"),  # there is nothing to weight
            probes=measures.probes,
            metrics=metrics,
            defence=defence,
            seed=seed,
        )
        for rate, attack, defence, seed, model, train in all_combinations(*axes)
        if not (isinstance(attack, NoAttack) and rate > 0) and _wanted(options, defence, rate, train)
        if not (options.attack.every and rate and attack.controls_training() and not defence.after_training)
    ]


def _wanted(options: SweepOptions, defence: Defence, rate: float, train: TrainConfig) -> bool:
    """Whether `defence` trains at this poison rate and weight decay: `none` at all of them."""
    rates, decays = options.training.defence_rates, options.training.defence_weight_decays
    chosen = (not rates or rate in (0.0, *rates)) and (not decays or train.weight_decay in decays)
    return chosen or isinstance(defence, NoDefence)


def all_combinations(*axes: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Every combination of a value of each axis.

    Raises:
        InputError: there are more than a sweep can list.
    """
    if (count := math.prod(map(len, axes))) > MOST_TRIALS:
        raise InputError(
            f"{count:,} trials are asked for, and a sweep has {MOST_TRIALS:,} at most: fewer values or seeds"
        )
    return product(*axes)


def attacks_of(options: AttackOptions) -> list[Attack]:
    """The attacks, with the target, labels and victims that all have in common."""
    names = distinct(name for text in options.attacks for name in (ATTACKS if text == "all" else [text]))
    common = {"target": options.target, "labels": options.labels, "victims": options.victims}
    return [parse(name, **common) for name in names]


def target_number(options: SweepOptions) -> int:
    """The number of the target class, for which a name needs the data.

    Raises:
        InputError: no class has that name.
    """
    target, data = options.attack.target, options.dataset
    classes = load(data.data, data.data_root, data.resize).classes if isinstance(target, str) else ()
    return number_of(target, classes)


def networks(options: NetworkOptions) -> list[ModelConfig]:
    """Widths x depths."""
    widths = options.widths or ((0.5, 1.0) if options.model in MODELS else (1.0,))
    pairs = product(widths, options.depths or (None,))
    same = ("noise", "weights", "input_size", "patch_size")
    common = ModelConfig(name=options.model, **{name: getattr(options, name) for name in same})
    return [replace(common, width=width, depth=depth) for width, depth in pairs]


def trainings(options: SweepOptions) -> list[TrainConfig]:
    """Weight decays x epochs x learning rates x batch sizes x crops x flips x betas; those without a value have what is
    usual for the data set."""
    data, given = options.dataset.data, options.flat()
    crop, flip = augmentation(data)
    usual: dict[str, Sequence[Any]] = {"crop": (crop,), "flip": (flip,)}
    usual["weight_decay"] = DECAYS.get(parse_data(data)[0], USUAL_DECAYS)
    fixed = {name: given[name] for name in FIXED} | {"workers": options.execution.workers}
    values = [given[option] or usual[setting] for setting, option in AXES.items()]
    return [TrainConfig(**dict(zip(AXES, at, strict=True)), **fixed) for at in product(*values)]


def share_twins(trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """The trials with each clean twin once, whichever attack it is the twin of; clean twins first."""
    twins = (replace(trial, attack=NoAttack()) for trial in trials if not trial.poison_rate)
    poisoned = (trial for trial in trials if trial.poison_rate)
    return list({trial.key: trial for trial in (*twins, *poisoned)}.values())


def distinct(values: Iterable[T]) -> list[T]:
    """Each of `values` once, in their order."""
    return list(dict.fromkeys(values))
