"""Dry run: prints the trials of a sweep and an estimate of their time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from joblib import cpu_count

from raybd.command_line.data_summary import describe_sets
from raybd.command_line.early_warning import warning_of
from raybd.command_line.estimate import LONGEST, estimate
from raybd.command_line.kept_networks import sizes_text
from raybd.command_line.limits import memory_limit, names_cluster
from raybd.command_line.options import SweepOptions
from raybd.command_line.own_methods import describe_own
from raybd.data.class_names import named
from raybd.data.residency import describe_place, is_large
from raybd.errors import NoDataError
from raybd.execution.progress import format_duration
from raybd.field_types import class_fields
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK
from raybd.trials.validate import prepare
from raybd.types import Data

SHOWN = 20  # trials, unless --all
MOST_VALUES = 12  # of an axis


@dataclass(frozen=True)
class Upcoming:
    """Trials that a search will add, whose settings are not known yet: about like `configs`, each so many `times`."""

    what: str
    configs: Sequence[TrialConfig]
    times: int = 1


def print_trials(
    options: SweepOptions,
    configs: Sequence[TrialConfig],
    upcoming: Sequence[Upcoming] = (),
    notes: Sequence[str] = (),
) -> int:
    """Print how many trials there are, what they share, the axes, the data, trials, notes, the time; the exit status.

    Raises:
        InputError: a trial could not run.
    """
    try:
        known, data = prepare(
            configs,
            options.dataset.data_root,
            lower=options.attack.lowers,
            image_bytes=options.image_bytes,
            memory=memory_limit(cluster=names_cluster(options.execution.address)),
        )
    except NoDataError as error:
        _print_list(options, [f"{'-' * 16}  {config.label}" for config in configs], configs, [], upcoming)
        print("\n".join([*notes, f"keys and times are not known without the data: {error}"]))
        return 0
    warning_of(options, known)
    lines = [f"{config.key}  {config.label}" for config in known]
    about = [*describe_sets(data), *describe_own(known, options.execution.proposer)]
    _print_list(options, lines, known, about, upcoming, data)
    for one in filter(is_large, data.values()):
        print(describe_place(one, options.image_bytes))
    if said := sizes_text(options.execution.keep_models, known, data):
        print(said)
    print("\n".join([*notes, _time(options, known, data, upcoming)]))
    return 0


def _print_list(
    options: SweepOptions,
    lines: Sequence[str],
    configs: Sequence[TrialConfig],
    about_data: Sequence[str],
    upcoming: Sequence[Upcoming],
    data: Mapping[str, Data] = MappingProxyType({}),
) -> None:
    """Print the count, the shared settings, the axes, the data, and the `lines` of trials, all or the first."""
    params = _params(configs, data)
    shared = f"all trials: {_common_settings(params)}"
    shown = list(lines) if options.execution.all else list(lines[:SHOWN])
    rest = [f"... and {len(lines) - SHOWN} more: --all lists them"] * (len(shown) < len(lines))
    print("\n".join([_count(configs, upcoming), shared, *_axes(configs, params), *about_data, "", *shown, *rest, ""]))


def _count(configs: Sequence[TrialConfig], upcoming: Sequence[Upcoming]) -> str:
    parts = [f"{len(configs)} trials", *(f"{len(u.configs) * u.times} trials of {u.what}" for u in upcoming)]
    return " and ".join(parts)


def _time(
    options: SweepOptions, configs: Sequence[TrialConfig], data: dict[str, Data], upcoming: Sequence[Upcoming]
) -> str:
    """How long all trials take, measures included, as far as it can be told on this machine."""
    count = len(configs) + sum(len(part.configs) * part.times for part in upcoming)
    if _on_gpus(options, configs):
        return f"{count} trials on GPUs: how long they take there cannot be told from a CPU, and is not guessed"
    cores = 1 if options.execution.inline else cpu_count()
    found = [estimate(configs, data), *(estimate(part.configs, data).times(part.times) for part in upcoming)]
    total, measures = sum(one.seconds for one in found), sum(one.measures for one in found)
    part = f", {format_duration(measures)} of it for the measures" if measures else ""
    least = f"; a measure takes over {LONGEST:g} s, and is counted as that" * any(one.cut_short for one in found)
    least += "; without the measures of convex learners" * any(one.untimed for one in found)
    here = f"{format_duration(total / cores)} on {cores}"
    how = f"a rough estimate from one training step and one measurement on this machine{least}"
    return f"{count} trials, about {format_duration(total)} of one core{part}, {here} ({how})"


def _on_gpus(options: SweepOptions, configs: Sequence[TrialConfig]) -> bool:
    """Whether networks are trained on GPUs: those that are asked for, or else those of this machine."""
    asked = options.execution.gpus_per_trial
    trained = any(config.model.kind is NETWORK for config in configs)
    return trained and (torch.cuda.is_available() if asked is None else asked > 0)


def _params(configs: Sequence[TrialConfig], data: Mapping[str, Data]) -> list[dict[str, Any]]:
    """The settings of `configs`, of two seeds: every setting occurs with every seed."""
    ends = configs[0].seed, configs[-1].seed
    return [config.params | _named_classes(config, data) for config in configs if config.seed in ends]


def _named_classes(config: TrialConfig, data: Mapping[str, Data]) -> dict[str, Any]:
    """The settings of the attack that are classes, with the names of these; none where the data are not known."""
    if config.image_set not in data:
        return {}
    names, cls = data[config.image_set].classes, type(config.attack)
    values = {f"attack.{name}": getattr(config.attack, name) for name in class_fields(cls)}
    return {
        name: [named(k, names) for k in value] if isinstance(value, tuple) else named(value, names)
        for name, value in values.items()
    }


def _common_settings(params: Sequence[Mapping[str, Any]]) -> str:
    """The settings that all trials have in common."""
    same = {k: v for k, v in params[0].items() if all(k in other and other[k] == v for other in params)}
    return "  ".join(f"{name}={_text(value)}" for name, value in same.items() if value not in ("", None, []))


def _axes(configs: Sequence[TrialConfig], params: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each setting in which `configs`, of settings `params`, differ, with its values."""
    values: dict[str, dict[str, None]] = {}
    for one in params:
        for name, value in one.items():
            values.setdefault(name, {})[_text(value)] = None
    values["seed"] = dict.fromkeys(str(seed) for seed in sorted({config.seed for config in configs}))
    axes = {name: list(found) for name, found in values.items() if len(found) > 1 and name != "fingerprint"}
    return [f"axis {name} ({len(found)}): {', '.join(_some(found))}" for name, found in axes.items()]


def _some(values: list[str]) -> list[str]:
    return values if len(values) <= MOST_VALUES else [*values[:MOST_VALUES], "..."]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
