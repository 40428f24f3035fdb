"""Samples: the finished trials of a map by cell, and the moments of their rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.values import Value

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.intp]
ROUNDING = 1e-20
DEFAULT_COUNT = 1000.0  # test images assumed behind a rate without a count: only keeps 0 and 1 apart from certainty


@dataclass(frozen=True)
class Moments:
    """Of each of c cells: number of seeds, their mean and their variance (NaN of fewer than two)."""

    number: Floats
    mean: Floats
    variance: Floats

    @property
    def freedom(self) -> Floats:
        """(c,) degrees of freedom of the variance."""
        return np.maximum(self.number - 1, 0)


@dataclass(frozen=True)
class Sample:
    """The finished trials of a map, each with the number of its cell."""

    trials: Trials
    cell: Integers  # (t,) of every trial, finished or not
    cells: int

    @cached_property
    def done(self) -> Flags:
        """(t,) whether a trial finished."""
        return self.trials.rows["done"].to_numpy(bool)

    def column(self, name: str) -> Floats:
        """(t,) a rate or a count of every trial, NaN where it did not finish."""
        return np.where(self.done, self.trials.rows[name].to_numpy(float), np.nan)

    def moments(self, values: Floats) -> Moments:
        """Of each cell, of `values` (t,), without those that are NaN."""
        known = ~np.isnan(values)
        cell, values = self.cell[known], values[known]
        number = np.bincount(cell, minlength=self.cells).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(cell, values, self.cells) / number
            squares = np.bincount(cell, (values - mean[cell]) ** 2, self.cells)
            squares[squares < ROUNDING] = 0.0  # equal rates, whose mean is off by its last bits
            variance = np.where(number > 1, squares / np.maximum(number - 1, 1), np.nan)
        return Moments(number, mean, variance)

    def images(self, name: str) -> Floats:
        """(c,) test images behind the seeds of each cell together; NaN where a seed's are not known."""
        counts = self.column(name)
        known = np.bincount(self.cell, self.done & ~(counts > 0), self.cells) == 0
        return np.where(known, np.bincount(self.cell, np.nan_to_num(counts), self.cells), np.nan)

    @cached_property
    def first(self) -> Integers:
        """(c,) a trial of each cell."""
        first: Integers = np.unique(self.cell, return_index=True)[1]
        return first

    @cached_property
    def group(self) -> Integers:
        """(c,) number of the source and data set of each cell."""
        return pools(self.trials)[self.first]

    def matches(self, name: str, value: Value) -> Flags:
        """(c,) whether the parameter `name` has `value` there; no cell has where there is no such parameter."""
        if name not in self.trials.values:
            return np.zeros(self.cells, bool)
        return holds(self.trials, name, value).to_numpy()[self.first]

    @cached_property
    def settings(self) -> list[dict[str, Value]]:
        """(c,) the value of every parameter in each cell, by its full name."""
        trials = self.trials
        codes = trials.codes.to_numpy()[self.first].tolist()
        columns = [(name, [*values, None]) for name, values in trials.values.items()]  # MISSING (-1) is the last
        return [{name: values[i] for (name, values), i in zip(columns, row, strict=True)} for row in codes]

    @cached_property
    def poisoned(self) -> Flags:
        """(c,) whether an attack was made."""
        return ~(self.matches("poison_rate", 0) | self.matches("attack.name", "none"))


def holds(trials: Trials, name: str, value: Value) -> "pd.Series[bool]":
    """(t,) whether each trial has `value` as its parameter `name`."""
    values = trials.values[name]
    return trials.codes[name] == (values.index(value) if value in values else len(values))


def sample(trials: Trials) -> Sample:
    """The sample of trials; cells are numbered in order of their settings."""
    cell = numbers(trials.codes, list(trials.values))
    return Sample(trials, cell, int(cell.max()) + 1)


def pools(trials: Trials) -> Integers:
    """(t,) number of the source and data set of each trial: spread is lent within these, never between."""
    return numbers(trials.codes, [name for name in ("source", "data") if name in trials.values])


def numbers(codes: pd.DataFrame, names: Sequence[str]) -> Integers:
    """(t,) number of the combination of the columns `names` in each row, in order; all 0 without a column."""
    rows = codes[list(names)].to_numpy()
    if not rows.shape[1]:
        return np.zeros(len(rows), np.intp)
    _, number = np.unique(rows, axis=0, return_inverse=True)
    return np.asarray(number, np.intp).reshape(-1)
