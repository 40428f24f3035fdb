"""Surrogates of a map: Gaussian processes through the logits of measured cells, with their 90 % bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr

from analysis.cells import Cell, DecisionRule
from analysis.contrast import SLACK
from analysis.gaussian_process import GaussianProcess
from analysis.hull import TOLERANCE, hull_interval, in_hull
from analysis.logits import Logits, cell_logits
from analysis.statistics import Z
from analysis.values import Value, distinct, equal_values, format_value, is_number

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
EXTRA = 2  # cells needed above the number of axes


class NoSurrogateError(ValueError):
    """There is nothing to interpolate; the message says why."""


@dataclass(frozen=True)
class Bands:
    """Both rates at m points, each (3, m): the mean over seeds, and the low and high end of its 90 % band."""

    success: Floats
    accuracy: Floats
    max_attack_success: Floats  # (m,) the excess allowed, on top of the attack success of the clean twins
    min_accuracy: float
    overruled: Flags  # (m,) beside a measured cell that the means contradict, or one whose trials failed: never sure

    @property
    def defended(self) -> Flags:
        """(m,) where both means are within the thresholds."""
        within: Flags = (self.success[0] <= self.max_attack_success) & (self.accuracy[0] >= self.min_accuracy)
        return within

    @property
    def surely_defended(self) -> Flags:
        """(m,) where both bands are within the thresholds."""
        within: Flags = (self.success[2] <= self.max_attack_success) & (self.accuracy[1] >= self.min_accuracy)
        return within & ~self.overruled

    @property
    def surely_undefended(self) -> Flags:
        """(m,) where one band is beyond its threshold."""
        beyond: Flags = (self.success[1] > self.max_attack_success) | (self.accuracy[2] < self.min_accuracy)
        return beyond & ~self.overruled


@dataclass(frozen=True)
class Surrogate:
    """Measured cells that differ in numeric axes only, and the Gaussian processes through their two rates."""

    cells: Sequence[Cell]
    axes: Mapping[str, str]  # full name of each numeric axis that varies here -> log or linear
    rule: DecisionRule
    success: Logits
    accuracy: Logits
    failed: Sequence[Cell] = ()  # cells among them without a finished trial

    @property
    def reference(self) -> float:
        """What the loss of accuracy is measured from."""
        return self.min_accuracy + self.rule.max_accuracy_loss

    @cached_property
    def min_accuracy(self) -> float:
        """The least clean accuracy allowed; the same for all cells."""
        return self.cells[0].min_accuracy

    @cached_property
    def points(self) -> Floats:
        """(n, d) coordinates of the cells."""
        return np.array([self.coordinates(cell.setting) for cell in self.cells])

    @cached_property
    def processes(self) -> tuple[GaussianProcess, GaussianProcess]:
        """Of attack success and of clean accuracy, in logits."""
        both = (self.success, self.accuracy)
        success, accuracy = (GaussianProcess(self.points, logits.mean, logits.noise) for logits in both)
        return success, accuracy

    @cached_property
    def errors(self) -> tuple[float, float]:
        """Mean absolute leave-one-out errors of attack success and clean accuracy."""
        predicted = [expit(process.leave_one_out()[0]) for process in self.processes]
        rates = [expit(logits.mean) for logits in (self.success, self.accuracy)]
        success, accuracy = (float(np.abs(p - r).mean()) for p, r in zip(predicted, rates, strict=True))
        return success, accuracy

    def coordinates(self, setting: Mapping[str, Value]) -> list[float]:
        """(d,) a setting on the axes' scales."""
        values = {name: float(str(setting[name])) for name in self.axes}
        return [float(np.log10(v)) if self.axes[name] == "log" else v for name, v in values.items()]

    def contains(self, setting: Mapping[str, Value]) -> bool:
        """Whether a setting is within the hull of the cells."""
        process = self.processes[0]
        return in_hull(process.points, process.scaled(np.array(self.coordinates(setting))))

    def line(self, setting: Mapping[str, Value], axis: str, steps: int) -> Floats:
        """(steps, d) points through a setting along an axis, from end to end of the hull; none if it misses it."""
        process, column = self.processes[0], list(self.axes).index(axis)
        start = np.array(self.coordinates(setting))
        ends = hull_interval(process.points, process.scaled(start), column)
        if ends is None:
            return np.empty((0, len(start)))
        points = np.tile(start, (steps, 1))
        points[:, column] = process.low[column] + process.span[column] * np.linspace(*ends, steps)
        return points

    def bands(self, points: Floats) -> Bands:
        """Both rates at `points` (m, d) with their 90 % bands."""
        overruled = np.zeros(len(points), dtype=bool)
        for cell in self.overruling:
            overruled |= self.beside(points, cell)
        return replace(self._bands(points), overruled=overruled)

    @cached_property
    def overruling(self) -> list[Cell]:
        """The cells that the means put on the other side of the thresholds, and those that failed."""
        defended = self._bands(self.points).defended
        sides = [
            (c.verdict.undefended if mean else c.verdict.status == "defended")
            for c, mean in zip(self.cells, defended, strict=True)
        ]
        return [*compress(self.cells, sides), *self.failed]

    def beside(self, points: Floats, cell: Cell) -> Flags:
        """(m,) whether `cell` is a corner of the box of measured values that holds a point, for each of (m, d)."""
        corner: Flags = np.ones(len(points), dtype=bool)
        for own, column, at in zip(self.points.T, points.T, self.coordinates(cell.setting), strict=True):
            slack = TOLERANCE * np.ptp(own)
            between = np.unique(own[np.abs(own - at) > slack])[:, None]
            low, high = np.minimum(column, at) - slack, np.maximum(column, at) + slack
            corner &= ~((between >= low) & (between <= high)).any(0)
        return corner

    def _bands(self, points: Floats) -> Bands:
        predicted = [process.predict(points) for process in self.processes]
        success, accuracy = (expit(np.stack([m, m - Z * d, m + Z * d])) for m, d in predicted)
        nowhere = np.zeros(len(points), dtype=bool)
        return Bands(success, accuracy, self.max_attack_success(points), self.min_accuracy, nowhere)

    def baselines(self, points: Floats) -> Floats:
        """(m,) the attack success of the clean twins at `points` (m, d): that of the nearest measured cell."""
        from scipy.spatial.distance import cdist

        process = self.processes[0]
        nearest = cdist(process.scaled(points), process.points).argmin(1)
        known: Floats = np.array([cell.baseline for cell in self.cells])[nearest]
        return known

    def max_attack_success(self, points: Floats) -> Floats:
        """(m,) the attack success allowed at `points` (m, d): the excess allowed over the clean twins'."""
        return self.baselines(points) + self.rule.max_attack_success

    def margins(self, points: Floats) -> Floats:
        """(2, m) logits by which the means of attack success and of clean accuracy are inside their thresholds."""
        success, accuracy = (process.predict(points)[0] for process in self.processes)
        floor = np.clip(self.min_accuracy, 0, 1)
        return np.stack([logit(np.minimum(self.max_attack_success(points), 1)) - success, accuracy - logit(floor)])

    def probability(self, point: Floats) -> float:
        """That the means over seeds at `point` (1, d) are within both thresholds, taken as independent."""
        deviations = np.stack([process.predict(point)[1] for process in self.processes])
        return float(ndtr(self.margins(point) / deviations).prod())

    def nearest(self, point: Floats) -> list[Cell]:
        """The cells by their distance from `point` (d,), in widths of the axes."""
        process = self.processes[0]
        distances = ((process.points - process.scaled(point)) ** 2).sum(1)
        return [self.cells[i] for i in np.argsort(distances, kind="stable").tolist()]


def select_cells(
    cells: Sequence[Cell], setting: Mapping[str, Value], scales: Mapping[str, str], short: Mapping[str, str]
) -> tuple[list[Cell], dict[str, str]]:
    """The cells to interpolate at `setting` from, and the numeric axes in which they differ, with their scales.

    Args:
        cells: those that match `setting` in everything but the numeric axes.
        setting: the point, by full names.
        scales: of each axis by its full name: log, linear or category.
        short: the short names of axes.

    Raises:
        NoSurrogateError: an axis is left open, a number has no place on its scale, or the cells are too few.
    """
    usable = [c for c in cells if c.seeds and c.poisoned and not np.isnan(c.attack_success).any()]
    values = {name: distinct({cell.setting[name] for cell in usable}) for name in scales}
    numeric = {name: scale for name, scale in scales.items() if scale != "category"}
    usable = [c for c in usable if all(_on_scale(c.setting[n], scale) for n, scale in numeric.items())]
    if open_axes := [n for n, known in values.items() if n not in setting and len(known) > 1]:
        listed = ", ".join(f"{short[n]} ({', '.join(map(format_value, values[n]))})" for n in open_axes)
        raise NoSurrogateError(f"to interpolate, say which {listed}")
    axes = {n: scale for n, scale in numeric.items() if len({c.setting[n] for c in usable}) > 1}
    for name in numeric.keys() & setting.keys():
        _check_value(short[name], setting[name], [] if name in axes else values[name], scales[name])
    if not axes or len(usable) < len(axes) + EXTRA:
        raise NoSurrogateError(f"{len(usable)} measured cells are too few to interpolate over {len(axes)} axes")
    return usable, axes


def failed_cells(cells: Sequence[Cell], measured: Sequence[Cell], axes: Mapping[str, str]) -> list[Cell]:
    """Of `cells` those among the `measured` ones that have no rates: a surface over them is a guess.

    They differ from the measured cells, none of which they are, in the numeric `axes` only.
    """
    known = {id(cell) for cell in measured}
    others = [c for c in cells if c.poisoned and id(c) not in known]
    same = {name: value for name, value in measured[0].setting.items() if name not in axes}
    others = [c for c in others if all(equal_values(c.setting[name], value) for name, value in same.items())]
    return [c for c in others if all(_on_scale(c.setting[name], scale) for name, scale in axes.items())]


def fit_surrogate(
    cells: Sequence[Cell], axes: Mapping[str, str], rule: DecisionRule, failed: Sequence[Cell] = ()
) -> Surrogate:
    """The surrogate through `cells`, never sure beside those that `failed`.

    Raises:
        NoSurrogateError: they are measured by different references, or nothing tells how far seeds spread.
    """
    floors = np.array([c.min_accuracy for c in cells])  # means over seeds: the same floor differs in its last bits
    if not np.allclose(floors, floors[0], rtol=0, atol=SLACK, equal_nan=True):
        raise NoSurrogateError("to interpolate, one reference accuracy must hold for all cells: use reference='best'")
    success, accuracy = cell_logits(cells)
    if success is None or accuracy is None:
        raise NoSurrogateError("no cell has two seeds: nothing tells how far they spread, so there is no band")
    return Surrogate(cells, axes, rule, success, accuracy, failed)


def _on_scale(value: Value, scale: str) -> bool:
    return isinstance(value, int | float) and is_number(value) and (scale == "linear" or value > 0)


def _check_value(name: str, value: Value, allowed: Sequence[Value], scale: str) -> None:
    """Raise if `value` has no place on its scale or is none of those allowed, where any are named."""
    if not _on_scale(value, scale):
        raise NoSurrogateError(f"{name}={format_value(value)} has no place on its {scale} scale")
    if allowed and not any(equal_values(value, v) for v in allowed):
        listed = ", ".join(map(format_value, allowed))
        raise NoSurrogateError(f"{name}={format_value(value)}: only {listed} was measured here")
