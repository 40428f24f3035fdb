"""Rerun of a recorded trial, and the comparison of its metrics with the logged ones."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from raybd import __version__
from raybd.data import load
from raybd.errors import InputError
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, Record
from raybd.trials.run import run_trial
from raybd.trials.validate import problems
from raybd.types import Data
from raybd.utils.environment import environment


@dataclass(frozen=True)
class Rerun:
    """The logged metrics of a trial and those of its rerun."""

    record: Record
    logged: dict[str, float]  # without seconds
    now: dict[str, float]
    changed: dict[str, tuple[str, str]]  # environment: then and now, where they differ
    network: nn.Module  # as it was trained now
    data: Data

    @property
    def different(self) -> list[str]:
        """The metrics that are not equal to the last bit, or that only one of the two has."""
        names = sorted(self.logged | self.now)
        return [n for n in names if not _equal(self.logged.get(n), self.now.get(n))]

    def __str__(self) -> str:
        lines = [f"{self.record.label} ({self.record.key}): {len(self.logged)} metrics"]
        lines += [f"  {what} was {then or 'none'}, is {now or 'none'}" for what, (then, now) in self.changed.items()]
        lines += [f"  {n}: logged {_shown(self.logged.get(n))}, now {_shown(self.now.get(n))}" for n in self.different]
        end = f"{len(self.different)} differ" if self.different else "all equal, to the last bit"
        return "\n".join([*lines, end])


def rerun(record: Record, data_root: str | None = None, threads: int = 1) -> Rerun:
    """Run the trial of `record` again on the CPU; nothing is logged.

    Raises:
        InputError: the trial did not finish, its data or files have changed, or its record is of another version.
    """
    if record.status != FINISHED:
        raise InputError(f"{record.label} did not finish ({record.error}): there are no numbers to compare")
    torch.set_num_threads(threads)
    config = _config(record)
    data = load(config.data, data_root, config.resize)
    result = run_trial(config, data)
    now, then = environment(), record.environment
    changed = {n: (then.get(n, ""), now[n]) for n in now if n != "host" and then.get(n, "") != now[n]}
    return Rerun(record, _timeless(record.metrics), _timeless(result.metrics), changed, result.model, data)


def _config(record: Record) -> TrialConfig:
    """The config of a record, which another version of raybd, or somebody's hand, may have written."""
    try:
        config = TrialConfig.from_dict(record.config)
        found = problems(config)
    except InputError as error:
        found = error.problems
    except Exception as error:  # noqa: BLE001 - a record of another shape raises whatever that suggests
        found = [f"{type(error).__name__}: {error}"]
    if not found:
        return config
    written = record.environment.get("raybd", "an unknown version")
    raise InputError([f"the record of {record.label} (raybd {written}) is no trial of raybd {__version__}", *found])


def _timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds/")}


def _equal(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return False
    return a == b or (math.isnan(a) and math.isnan(b))


def _shown(value: float | None) -> str:
    return "nothing" if value is None else repr(value)
