"""Runs grouped by their settings, every parameter that varies but the seed: no table pools over another."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.attacks import attack_names
from analysis.parameter_names import ParameterNames
from analysis.records import Trials, canonical_frame, encode_parameters
from analysis.values import MISSING, Value, distinct, format_value, to_python

ATTACK, RATE = "attack", "rate"


@dataclass(frozen=True)
class RunGroup:
    """The runs of one setting."""

    setting: Mapping[str, Value]  # attack (with its settings that vary), rate, and every other parameter that varies
    runs: pd.DataFrame  # of all its seeds

    @property
    def rate(self) -> float:
        """The poison rate."""
        return float(str(self.setting[RATE]))

    @property
    def seeds(self) -> int:
        """How many seeds."""
        return int(self.runs["params.seed"].nunique())

    @property
    def label(self) -> str:
        """The setting but the rate, in words: "badnets, weight_decay=0.05"."""
        others = {n: v for n, v in self.setting.items() if n not in (ATTACK, RATE) and v is not None}
        return ", ".join([str(self.setting[ATTACK]), *(f"{n}={format_value(v)}" for n, v in others.items())])

    def cells(self) -> list[str]:
        """The setting as the first cells of a table's line."""
        return ["-" if value is None else format_value(value) for value in self.setting.values()]

    def key(self, without: Collection[str] = ()) -> tuple[Value, ...]:
        """The values of the setting, those of the columns `without` left out."""
        return tuple(value for name, value in self.setting.items() if name not in without)


def metric_values(runs: pd.DataFrame, name: str) -> "pd.Series[float]":
    """The metric `name` of each run, NaN where it was not logged."""
    column = f"metrics.{name}"
    return runs[column].astype(float) if column in runs else pd.Series(float("nan"), runs.index)


def setting_columns(runs: pd.DataFrame, without: Collection[str] = ()) -> pd.DataFrame:
    """The setting of each run, on the same index: attack, rate, and a column for each other parameter that varies.

    Args:
        runs: as `raybd.tracking.load_runs` gives them.
        without: prefixes of parameters (full names) that the caller tells apart himself.
    """
    frame = canonical_frame(runs)
    codes, values = encode_parameters(frame)
    names = ParameterNames(Trials(frame, codes, values))
    others = [n for n in names.varying if n != "poison_rate" and not n.startswith(("attack.", *without))]
    columns = {names.short[n]: [None if i == MISSING else values[n][i] for i in codes[n]] for n in others}
    rates = frame["poison_rate"].astype(float)
    return pd.DataFrame({ATTACK: attack_names(runs), RATE: rates} | columns, index=runs.index)


def group_runs(runs: pd.DataFrame, without: Collection[str] = ()) -> list[RunGroup]:
    """The groups of `runs` in the order of their settings; `without` as `setting_columns` takes it."""
    columns = setting_columns(runs, without)
    known = {name: {value: i for i, value in enumerate(distinct(columns[name]))} for name in columns}
    codes = pd.DataFrame({name: [known[name].get(to_python(v), MISSING) for v in columns[name]] for name in columns})
    groups = []
    for at in codes.groupby(list(codes)).indices.values():
        first = {str(name): to_python(value) for name, value in columns.iloc[at[0]].items()}
        groups.append(RunGroup(first, runs.iloc[at]))
    return groups
