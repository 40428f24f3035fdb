"""Everything that can be wrong with trials, found before any work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raybd.attacks import describe
from raybd.data import load
from raybd.errors import InputError
from raybd.trials.config import TrialConfig
from raybd.trials.run import at_most, check_trial
from raybd.types import Data


def prepare(
    configs: Sequence[TrialConfig], data_root: str | Path | None = None, lower: bool = False
) -> tuple[list[TrialConfig], dict[str, Data]]:
    """The configs with the fingerprint of their data, each once, and the data by name.

    `lower`: poison rates that an attack cannot have on the data become the largest that it can, which is printed.

    Raises:
        NoDataError: a data set is not on this machine.
        InputError: with everything that is wrong with any of them; no trial could start.
    """
    problems = [problem for config in configs for problem in config.problems()]
    if problems or not configs:
        raise InputError(list(dict.fromkeys(problems)) or "the sweep has no trials")
    data = {name: load(name, data_root) for name in dict.fromkeys(config.data for config in configs)}
    known = [replace(config, fingerprint=data[config.data].fingerprint) for config in configs]
    known = _lowered(known, data) if lower else known
    for config in known:
        try:
            check_trial(config, data[config.data])
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list({config.key: config for config in known}.values()), data


def _lowered(configs: Sequence[TrialConfig], data: dict[str, Data]) -> list[TrialConfig]:
    lowered = [at_most(config, data[config.data]) for config in configs]
    said = {
        f"{describe(old.attack)}: a poison rate of {old.poison_rate:g} cannot be had here, {new.poison_rate:.4g} can"
        for old, new in zip(configs, lowered, strict=True)
        if old != new
    }
    for line in sorted(said):
        print(line, flush=True)
    return lowered
