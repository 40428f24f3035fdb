"""Dry run: prints the trials of a sweep and an estimate of their time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from joblib import cpu_count

from raybd.command_line.estimate import estimate_seconds
from raybd.command_line.limits import memory_limit, names_cluster
from raybd.command_line.options import SweepOptions
from raybd.data.residency import describe_place, is_large
from raybd.errors import NoDataError
from raybd.execution.progress import format_duration
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK
from raybd.trials.validate import prepare


@dataclass(frozen=True)
class Upcoming:
    """Trials that a search will add, whose settings are not known yet: about like `configs`, each so many `times`."""

    what: str
    configs: Sequence[TrialConfig]
    times: int = 1


def print_trials(options: SweepOptions, configs: Sequence[TrialConfig], upcoming: Sequence[Upcoming] = ()) -> int:
    """Print every trial, how many a search will add, and an estimate of the time; the exit status.

    Raises:
        InputError: a trial could not run.
    """
    try:
        known, data = prepare(
            configs,
            options.dataset.data_root,
            lower=options.attack.every,
            image_bytes=options.image_bytes,
            memory=memory_limit(cluster=names_cluster(options.execution.address)),
        )
    except NoDataError as error:
        print(f"all trials: {_common_settings(configs)}\n")
        print("\n".join(f"{'-' * 16}  {config.label}" for config in configs))
        print(f"{len(configs)} trials; their keys and times are not known without the data: {error}")
        return 0
    print(f"all trials: {_common_settings(configs)}\n")
    for config in known:
        print(f"{config.key}  {config.label}")
    for one in filter(is_large, data.values()):
        print(describe_place(one, options.image_bytes))
    count = len(known) + sum(len(part.configs) * part.times for part in upcoming)
    for part in upcoming:
        print(f"and {len(part.configs) * part.times} trials of {part.what}")
    if _on_gpus(options, known):
        print(f"{count} trials on GPUs: how long they take there cannot be told from a CPU, and is not guessed")
        return 0
    cores = 1 if options.execution.inline else cpu_count()
    total = estimate_seconds(known, data) + sum(estimate_seconds(part.configs, data) * part.times for part in upcoming)
    print(
        f"{count} trials, about {format_duration(total)} of one core, {format_duration(total / cores)} on {cores} "
        f"(a rough estimate from one training step on this machine{', without the measures' * bool(known[0].metrics)})"
    )
    return 0


def _on_gpus(options: SweepOptions, configs: Sequence[TrialConfig]) -> bool:
    """Whether networks are trained on GPUs: those that are asked for, or else those of this machine."""
    asked = options.execution.gpus_per_trial
    trained = any(config.model.kind is NETWORK for config in configs)
    return trained and (torch.cuda.is_available() if asked is None else asked > 0)


def _common_settings(configs: Sequence[TrialConfig]) -> str:
    """The settings that all of `configs` have in common."""
    ends = configs[0].seed, configs[-1].seed  # every setting occurs with every seed: two seeds show what differs
    params = [config.params for config in configs if config.seed in ends]
    same = {k: v for k, v in params[0].items() if all(k in other and other[k] == v for other in params)}
    return "  ".join(f"{name}={_text(value)}" for name, value in same.items() if value not in ("", None, []))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
