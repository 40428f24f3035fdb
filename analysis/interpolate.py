"""Verdicts between measured cells: surfaces through their logits, never beyond their hull, never across categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from analysis.cells import Cell, Rule
from analysis.logits import Logits, of_cells
from analysis.statistics import Z
from analysis.surface import EDGE, Surface, extent, inside
from analysis.values import Value, distinct, is_number, same, written
from analysis.verdict import Estimate, Status, Verdict

Floats = NDArray[np.float64]
EXTRA = 2  # cells needed above the number of axes


class NoSurfaceError(ValueError):
    """There is nothing to interpolate; the message says why."""


@dataclass(frozen=True)
class Patch:
    """Measured cells that differ in numeric axes only, and the surfaces through them."""

    cells: Sequence[Cell]
    axes: Mapping[str, str]  # full name of each numeric axis that varies here -> log or linear
    rule: Rule
    success: Logits
    accuracy: Logits

    @cached_property
    def floor(self) -> float:
        """The least clean accuracy allowed; the same for all cells."""
        return self.cells[0].floor

    @cached_property
    def points(self) -> Floats:
        """(n, d) coordinates of the cells."""
        return np.array([self.at(cell.setting) for cell in self.cells])

    @cached_property
    def surfaces(self) -> tuple[Surface, Surface]:
        """Of attack success and of clean accuracy."""
        both = (self.success, self.accuracy)
        first, second = (Surface(self.points, found.mean, found.noise) for found in both)
        return first, second

    @cached_property
    def errors(self) -> tuple[float, float]:
        """How far the other cells miss a cell's attack success and clean accuracy: mean of absolute differences."""
        left = [surface.leave_one_out()[0] for surface in self.surfaces]
        rates = [expit(found.mean) for found in (self.success, self.accuracy)]
        first, second = (float(np.abs(expit(m) - r).mean()) for m, r in zip(left, rates, strict=True))
        return first, second

    def at(self, setting: Mapping[str, Value]) -> list[float]:
        """Coordinates of a setting."""
        values = {name: float(str(setting[name])) for name in self.axes}
        return [float(np.log10(v)) if self.axes[name] == "log" else v for name, v in values.items()]

    def contains(self, setting: Mapping[str, Value]) -> bool:
        """Whether a setting is within the hull of the cells."""
        surface = self.surfaces[0]
        return inside(surface.points, surface.scaled(np.array(self.at(setting))))

    def line(self, setting: Mapping[str, Value], axis: str, steps: int) -> Floats:
        """(steps, d) points through a setting along an axis, from end to end of the hull; none if it misses it."""
        surface, column = self.surfaces[0], list(self.axes).index(axis)
        start = np.array(self.at(setting))
        ends = extent(surface.points, surface.scaled(start), column)
        if ends is None:
            return np.empty((0, len(start)))
        points = np.tile(start, (steps, 1))
        points[:, column] = surface.low[column] + surface.span[column] * np.linspace(*ends, steps)
        return points

    def bands(self, points: Floats) -> tuple[Floats, Floats]:
        """(3, m) mean, low and high end of attack success and of clean accuracy at `points` (m, d): 90 % bands."""
        found = [surface.predict(points) for surface in self.surfaces]
        first, second = (expit(np.stack([m, m - Z * d, m + Z * d])) for m, d in found)
        return first, second

    def chance(self, point: Floats) -> float:
        """That a new seed at `point` (1, d) is defended, its success and its accuracy taken as independent."""
        (success, doubt), (accuracy, wobble) = (surface.predict(point) for surface in self.surfaces)
        room = logit(self.rule.max_attack_success) - success, accuracy - logit(np.clip(self.floor, 0, 1))
        width = np.hypot(doubt, self.success.spread), np.hypot(wobble, self.accuracy.spread)
        return float((norm.cdf(room[0] / width[0]) * norm.cdf(room[1] / width[1]))[0])

    def nearest(self, point: Floats) -> list[Cell]:
        """The cells by their distance from `point` (d,), in widths of the axes."""
        surface = self.surfaces[0]
        away = ((surface.points - surface.scaled(point)) ** 2).sum(1)
        return [self.cells[i] for i in np.argsort(away, kind="stable").tolist()]

    def around(self, point: Floats, cells: Sequence[Cell]) -> list[Cell]:
        """Of `cells` those at the corners of the box of measured values that holds `point` (d,)."""
        corners = []
        for own, asked in zip(self.points.T, point, strict=True):
            slack = EDGE * np.ptp(own)
            corners.append({own[own <= asked + slack].max(), own[own >= asked - slack].min()})
        placed = [c for c in cells if all(_placed(c.setting[n], scale) for n, scale in self.axes.items())]
        return [c for c in placed if all(x in box for x, box in zip(self.at(c.setting), corners, strict=True))]

    def hides(self, cell: Cell) -> bool:
        """Whether the surface is on the other side of the thresholds than a measured cell, or the cell gave nothing."""
        if cell.verdict.status in ("uncertain", "unmeasured"):
            return cell.verdict.status == "unmeasured"
        success, accuracy = self.bands(np.array([self.at(cell.setting)]))
        within = success[0, 0] <= self.rule.max_attack_success and accuracy[0, 0] >= self.floor
        return bool(within) != (cell.verdict.status == "defended")


def chosen(
    cells: Sequence[Cell], asked: Mapping[str, Value], scales: Mapping[str, str], short: Mapping[str, str]
) -> tuple[list[Cell], dict[str, str]]:
    """The cells to answer `asked` from, and the numeric axes in which they differ, with their scales.

    Args:
        cells: those that match `asked` in everything but the numeric axes.
        asked: the question, by full names.
        scales: of each axis by its full name: log, linear or category.
        short: the names that axes go by.

    Raises:
        NoSurfaceError: an axis is left open, a number has no place on its scale, or the cells are too few.
    """
    usable = [c for c in cells if c.seeds and c.poisoned and not np.isnan(c.attack_success).any()]
    values = {name: distinct({cell.setting[name] for cell in usable}) for name in scales}
    numeric = {name: found for name, found in scales.items() if found != "category"}
    usable = [c for c in usable if all(_placed(c.setting[n], found) for n, found in numeric.items())]
    if open_axes := [n for n, found in values.items() if n not in asked and len(found) > 1]:
        listed = ", ".join(f"{short[n]} ({', '.join(map(written, values[n]))})" for n in open_axes)
        raise NoSurfaceError(f"to interpolate, say which {listed}")
    axes = {n: found for n, found in numeric.items() if len({c.setting[n] for c in usable}) > 1}
    for name in numeric.keys() & asked.keys():
        _check(name, asked[name], name in axes, values[name], scales[name], short)
    if not axes or len(usable) < len(axes) + EXTRA:
        raise NoSurfaceError(f"{len(usable)} measured cells are too few to interpolate over {len(axes)} axes")
    return usable, axes


def through(cells: Sequence[Cell], axes: Mapping[str, str], rule: Rule) -> Patch:
    """The surfaces through `cells`.

    Raises:
        NoSurfaceError: they are measured by different references, or nothing tells how far seeds spread.
    """
    if len({str(c.floor) for c in cells}) > 1:
        raise NoSurfaceError("to interpolate, one reference accuracy must hold for all cells: use reference='best'")
    success, accuracy = of_cells(cells)
    if success is None or accuracy is None:
        raise NoSurfaceError("no cell has two seeds: nothing tells how far they spread, so there is no band")
    return Patch(cells, axes, rule, success, accuracy)


def interpolated(
    surface: Patch, asked: Mapping[str, Value], named: Mapping[str, Value], near: Sequence[Cell]
) -> Verdict:
    """The verdict at `asked`, a point within the hull of the cells.

    `near` are all cells of its neighbourhood, measured or not: where the surface is smooth across a hole at a corner
    of the box around the point, the verdict is uncertain.
    """
    point = np.array([surface.at(asked)])
    success, accuracy = surface.bands(point)
    status, why = _status(success[:, 0], accuracy[:, 0], surface)
    corners = surface.around(point[0], near)
    if against := [c for c in corners if status != "uncertain" and surface.hides(c)]:
        values = ", ".join(written(v) for v in against[0].verdict.setting.values())
        status, why = (
            "uncertain",
            f"the surface passes over the {against[0].verdict.status} cell beside it, at {values}",
        )
    nearest, missed = surface.nearest(point[0])[: 2 ** len(surface.axes)], surface.errors
    return Verdict(
        setting=named,
        status=status,
        reason=(
            f"interpolated over {len(surface.cells)} cells: {why}; each cell left out in turn, the others miss its "
            f"attack success by {100 * missed[0]:.1f} points, its clean accuracy by {100 * missed[1]:.1f} (mean)"
        ),
        probability=surface.chance(point) if not np.isnan(surface.floor) else np.nan,
        clean_accuracy=Estimate(*accuracy[:, 0].tolist()),
        attack_success=Estimate(*success[:, 0].tolist()),
        seeds=min(len(cell.seeds) for cell in nearest),
        evidence=tuple(run for cell in nearest for run in cell.verdict.evidence),
        failures=tuple(failure for cell in corners for failure in cell.verdict.failures),
        interpolated=True,
    )


def clear(success: Floats, accuracy: Floats, floor: float, rule: Rule) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(m,) where both bands (3, m) are within the thresholds, and where one is beyond its own."""
    limit = rule.max_attack_success
    good = (success[2] <= limit) & (accuracy[1] >= floor)
    bad = (success[1] > limit) | (accuracy[2] < floor)
    return good, bad


def _status(success: Floats, accuracy: Floats, surface: Patch) -> tuple[Status, str]:
    if np.isnan(surface.floor):
        return "uncertain", "there is no reference accuracy"
    good, bad = clear(success[:, None], accuracy[:, None], surface.floor, surface.rule)
    if good[0]:
        return "defended", "both bands are clear of the thresholds"
    if not bad[0]:
        return "uncertain", "a band holds its threshold"
    high = success[1] > surface.rule.max_attack_success
    return "undefended", f"the band of {'attack success' if high else 'clean accuracy'} is beyond its threshold"


def _placed(value: Value, scale: str) -> bool:
    return isinstance(value, int | float) and is_number(value) and (scale == "linear" or value > 0)


def _check(name: str, value: Value, spans: bool, known: Sequence[Value], scale: str, short: Mapping[str, str]) -> None:
    if not _placed(value, scale):
        raise NoSurfaceError(f"{short[name]}={written(value)} has no place on its {scale} scale")
    if not spans and not any(same(value, v) for v in known):
        listed = ", ".join(map(written, known))
        raise NoSurfaceError(f"{short[name]}={written(value)}: only {listed} was measured here")
