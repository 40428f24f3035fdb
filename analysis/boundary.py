"""The boundary of the defended region along an axis, and the largest poison rate that any setting is defended at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells
from analysis.surrogate import NoSurrogateError, Surrogate
from analysis.values import Value, distinct, format_value, is_number
from analysis.verdict import UNDEFENDED
from raybd.errors import InputError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
STEPS = 401  # points of an axis at which the surrogate is evaluated


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where the defended region ends along an axis; NaN where nothing was measured, infinite where it is open."""

    value: float  # the largest defended value
    low: float  # up to here all is defended, whatever comes later; NaN if not even the smallest value is
    high: float  # from here on all is undefended: kept_out or backdoored
    holes: tuple[float, ...] = ()  # values below `value` that are not defended
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """Its fields as a row of a table."""
        return {
            "largest defended": self.value,
            "low": self.low,
            "high": self.high,
            "holes": ", ".join(map(format_value, self.holes)),
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Resistance:
    """The largest poison rate at which some setting is defended against an attack."""

    attack: Value
    boundary: Boundary
    settings: Sequence[Mapping[str, Value]]  # defended at that rate

    @property
    def rate(self) -> float:
        """The poison rate; NaN if no setting is defended at any."""
        return self.boundary.value

    def __str__(self) -> str:
        where = "; ".join(", ".join(f"{n}={format_value(v)}" for n, v in s.items()) for s in self.settings)
        return f"{self.attack}: {self.boundary.reason}" + (f"\n  at {where}" if where else "")


def boundary_table(table: CellTable, along: str, fixed: Mapping[str, Value], interpolate: bool) -> pd.DataFrame:
    """One row a setting of the axes not `fixed`: the boundary along the axis `along` (all by full names)."""
    if not all(is_number(value) for value in table.measured(along)):
        raise InputError(f"{along} has values without an order: a boundary needs a numeric axis")
    table.require(fixed)
    others = [n for n in table.names.varying if n != along and n not in fixed]
    rows = []
    for values, cells in group_cells(table.find_poisoned(fixed), others).items():
        setting = dict(zip(others, values, strict=True))
        result = _interpolate(table, along, {**fixed, **setting}) if interpolate else _measure(cells, along)
        rows.append(table.names.short_setting(setting) | result.row())
    columns = [*(table.names.short[n] for n in others), *Boundary(value=0, low=0, high=0).row()]
    return pd.DataFrame(rows, columns=columns)


def resistance(table: CellTable, attack: Value, fixed: Mapping[str, Value]) -> Resistance:
    """The resistance of all settings that match `fixed` (by full names, the attack among them) to `attack`.

    A rate counts as defended if some setting is, as undefended if all settings are.
    """
    table.check_one_source(table.find(fixed))
    cells = table.find_poisoned(fixed)
    if not cells:
        return Resistance(attack=attack, boundary=_unknown(table.answer(fixed).reason), settings=[])
    rates = distinct(cell.setting["poison_rate"] for cell in cells)
    by_rate = [[c for c in cells if c.setting["poison_rate"] == rate] for rate in rates]
    result = measured_boundary([float(str(rate)) for rate in rates], [_most_defended(here) for here in by_rate])
    largest = next((here for rate, here in zip(rates, by_rate, strict=True) if rate == result.value), [])
    free = [n for n in table.names.varying if n != "poison_rate" and n not in fixed]
    settings = [{n: c.setting[n] for n in free} for c in largest if c.expected == "defended"]
    return Resistance(attack=attack, boundary=result, settings=[table.names.short_setting(s) for s in settings])


def measured_boundary(values: Sequence[float], statuses: Sequence[str]) -> Boundary:
    """The boundary among measured `values`, ascending, with the status of each."""
    if not values:
        return _unknown("no value was measured")
    defended = np.array([status == "defended" for status in statuses])
    undefended = np.array([status in UNDEFENDED for status in statuses])
    result = read_line(np.array(values), defended, defended, undefended)
    holes = tuple(v for v, good in zip(values, defended, strict=True) if not good and v < result.value)
    return replace(result, holes=holes, reason=_describe(replace(result, holes=holes), values))


def read_line(values: Floats, defended: Flags, surely_defended: Flags, surely_undefended: Flags) -> Boundary:
    """The boundary on a line of `values` (s,), ascending, from flags (s,); its holes are where they begin.

    `low` ends the run of `surely_defended` from the start, `high` begins the run of `surely_undefended` to the end:
    what lies beyond the first gap, a second region or a hole, moves neither.
    """
    first, last = _run_length(surely_defended), len(values) - _run_length(surely_undefended[::-1])
    largest = int(np.flatnonzero(defended)[-1]) if defended.any() else -1
    begins = ~defended & np.concatenate([[True], defended[:-1]])
    return Boundary(
        value=float(values[largest]) if largest >= 0 else np.nan,
        low=float(values[first - 1]) if first else np.nan,
        high=float(values[last]) if last < len(values) else np.inf,
        holes=tuple(values[: largest + 1][begins[: largest + 1]].tolist()),
    )


def _run_length(flags: Flags) -> int:
    """The number of flags before the first that is not set."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def _measure(cells: Sequence[Cell], along: str) -> Boundary:
    """The boundary of measured cells; several cells at one value count as `uncertain` where they differ."""
    values = distinct(cell.setting[along] for cell in cells)
    statuses = [{c.expected for c in cells if c.setting[along] == v} for v in values]
    result = measured_boundary(
        [float(str(v)) for v in values], [s.pop() if len(s) == 1 or s <= UNDEFENDED else "uncertain" for s in statuses]
    )
    warned = distinct(cell.setting[along] for cell in cells if cell.expected != cell.verdict.status)
    if not warned:
        return result
    return replace(
        result, reason=f"{result.reason}; an early warning alone tells {', '.join(map(format_value, warned))}"
    )


def _most_defended(cells: Sequence[Cell]) -> str:
    statuses = {cell.expected for cell in cells}
    return "defended" if "defended" in statuses else statuses.pop() if statuses <= UNDEFENDED else "uncertain"


def _interpolate(table: CellTable, along: str, setting: Mapping[str, Value]) -> Boundary:
    measured = [cell.setting[along] for cell in table.find_poisoned(setting) if cell.seeds]
    try:
        surrogate = table.surrogate({**setting, along: measured[0] if measured else None})
        return _surrogate_boundary(surrogate, along, setting)
    except NoSurrogateError as error:
        return _unknown(f"not interpolated: {error}")


def _surrogate_boundary(surrogate: Surrogate, along: str, setting: Mapping[str, Value]) -> Boundary:
    """The boundary by the surrogate's means; low and high are where its 90 % bands leave the thresholds."""
    if along not in surrogate.axes or np.isnan(surrogate.min_accuracy):
        raise NoSurrogateError("one value was measured" if along not in surrogate.axes else "no reference accuracy")
    points = surrogate.line({**setting, along: surrogate.cells[0].setting[along]}, along, STEPS)
    if not len(points):
        raise NoSurrogateError("the setting is outside the measured hull")
    bands = surrogate.bands(points)
    coordinates = points[:, list(surrogate.axes).index(along)]
    values = 10**coordinates if surrogate.axes[along] == "log" else coordinates
    result = read_line(values, bands.defended, bands.surely_defended, bands.surely_undefended)
    missed = f"the cells left out in turn are missed by {100 * surrogate.errors[0]:.1f} points of attack success"
    return replace(result, reason=f"{_describe(result, values.tolist())}, on a surface; {missed}")


def _unknown(reason: str) -> Boundary:
    return Boundary(value=np.nan, low=np.nan, high=np.nan, reason=reason)


def _describe(result: Boundary, values: Sequence[float]) -> str:
    if np.isnan(result.value):
        return f"no value from {format_value(values[0])} to {format_value(values[-1])} is defended"
    parts = [f"defended up to {format_value(result.value)}"]
    parts += [f"with holes at {', '.join(map(format_value, result.holes))}"] * bool(result.holes)
    parts += ["the largest measured"] * bool(np.isinf(result.high) and result.value == values[-1])
    parts += [f"undefended from {format_value(result.high)}"] * bool(np.isfinite(result.high))
    return ", ".join(parts)
