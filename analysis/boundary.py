"""Where the defended region ends along an axis, and the largest poison rate at which it is not empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.cells import Cell
from analysis.interpolate import NoSurfaceError, Patch, clear
from analysis.values import Value, distinct, is_number, written
from raybd.errors import InputError

if TYPE_CHECKING:
    from analysis.region_map import DefendedRegionMap

STEPS = 401  # points of an axis at which the surface is read


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The end of the defended region along an axis; NaN where nothing was seen, infinite where it is open."""

    value: float  # the largest defended value
    low: float  # up to here all that was looked at is defended; NaN if not even the smallest is
    high: float  # from here on all is undefended
    holes: tuple[float, ...] = ()  # values below `value` that are not defended
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """Its numbers, for a line of a table."""
        return {
            "largest defended": self.value,
            "low": self.low,
            "high": self.high,
            "holes": ", ".join(map(written, self.holes)),
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Resistance:
    """The largest poison rate at which some setting is defended against an attack."""

    attack: Value
    edge: Edge
    settings: Sequence[Mapping[str, Value]]  # defended at that rate

    @property
    def rate(self) -> float:
        """That rate; NaN if no setting is defended at any."""
        return self.edge.value

    def __str__(self) -> str:
        where = "; ".join(", ".join(f"{n}={written(v)}" for n, v in s.items()) for s in self.settings)
        return f"{self.attack}: {self.edge.reason}" + (f"\n  at {where}" if where else "")


def boundary(
    region_map: "DefendedRegionMap", along: str, fixed: Mapping[str, Value], interpolate: bool
) -> pd.DataFrame:
    """One row a setting of the other axes: the edge along the axis `along` (a full name)."""
    others = [n for n in region_map.names.varying if n != along and n not in fixed]
    if not all(is_number(value) for value in region_map.measured(along)):
        raise InputError(f"{along} has values without an order: a boundary needs a numeric axis")
    cells = [c for c in region_map.find(fixed) if c.poisoned]
    settings = {tuple(cell.setting[n] for n in others): None for cell in cells}
    rows = []
    for at in settings:
        asked = dict(fixed) | dict(zip(others, at, strict=True))
        here = [c for c in cells if all(c.setting[n] == v for n, v in zip(others, at, strict=True))]
        edge = _read_off(region_map, along, asked) if interpolate else measured_edge(*_judged(here, along))
        rows.append({region_map.names.short[n]: v for n, v in zip(others, at, strict=True)} | edge.row())
    columns = [*(region_map.names.short[n] for n in others), *Edge(value=0, low=0, high=0).row()]
    return pd.DataFrame(rows, columns=columns)


def resistance(region_map: "DefendedRegionMap", attack: Value, fixed: Mapping[str, Value]) -> Resistance:
    """Over all settings that match `fixed` (full names, the attack among them)."""
    cells = [c for c in region_map.find(fixed) if c.poisoned]
    if not cells:
        return Resistance(attack=attack, edge=_nothing(region_map.answer(fixed).reason), settings=[])
    rates = distinct(cell.setting["poison_rate"] for cell in cells)
    by_rate = [[c for c in cells if c.setting["poison_rate"] == rate] for rate in rates]
    some = ["defended" if any(c.verdict.status == "defended" for c in here) else "" for here in by_rate]
    none = ["undefended" if all(c.verdict.status == "undefended" for c in here) else "" for here in by_rate]
    edge = measured_edge([float(str(r)) for r in rates], [a or b for a, b in zip(some, none, strict=True)])
    at = next((here for rate, here in zip(rates, by_rate, strict=True) if rate == edge.value), [])
    free = [n for n in region_map.names.varying if n != "poison_rate" and n not in fixed]
    settings = [{region_map.names.short[n]: c.setting[n] for n in free} for c in at if c.verdict.status == "defended"]
    return Resistance(attack=attack, edge=edge, settings=settings)


def measured_edge(values: Sequence[float], statuses: Sequence[str]) -> Edge:
    """The edge among measured `values`, ascending, with the status of each."""
    good = [status == "defended" for status in statuses]
    if not values:
        return _nothing("no value was measured")
    last = max((i for i, fine in enumerate(good) if fine), default=-1)
    first_gap = next((i for i, fine in enumerate(good) if not fine), len(good))
    beyond = next((v for i, v in enumerate(values) if all(s == "undefended" for s in statuses[i:])), np.inf)
    edge = Edge(
        value=values[last] if last >= 0 else np.nan,
        low=values[first_gap - 1] if first_gap else np.nan,
        high=beyond,
        holes=tuple(v for v, fine in zip(values[: last + 1], good, strict=False) if not fine),
    )
    return Edge(**{**vars(edge), "reason": _said(edge, values)})


def _judged(cells: Sequence[Cell], along: str) -> tuple[list[float], list[str]]:
    """The values of an axis, ascending, and the status of each; several cells at one value: that of all or none."""
    values = distinct(cell.setting[along] for cell in cells)
    found = [{c.verdict.status for c in cells if c.setting[along] == v} for v in values]
    return [float(str(v)) for v in values], [s.pop() if len(s) == 1 else "uncertain" for s in found]


def _read_off(region_map: "DefendedRegionMap", along: str, asked: Mapping[str, Value]) -> Edge:
    """The edge on the surface: low and high are where its bands leave the thresholds."""
    try:
        patch = region_map.patch({**asked, along: _some(region_map, along, asked)})
        return _on_surface(patch, along, asked)
    except NoSurfaceError as error:
        return _nothing(f"not interpolated: {error}")


def _some(region_map: "DefendedRegionMap", along: str, asked: Mapping[str, Value]) -> Value:
    cells = [c for c in region_map.find(asked) if c.poisoned and c.seeds]
    return cells[0].setting[along] if cells else None


def _on_surface(patch: Patch, along: str, asked: Mapping[str, Value]) -> Edge:
    if along not in patch.axes or np.isnan(patch.floor):
        raise NoSurfaceError("one value was measured" if along not in patch.axes else "no reference accuracy")
    log = patch.axes[along] == "log"
    points = patch.line({**asked, along: patch.cells[0].setting[along]}, along, STEPS)
    if not len(points):
        raise NoSurfaceError("the setting is outside the measured hull")
    success, accuracy = patch.bands(points)
    good, bad = clear(success, accuracy, patch.floor, patch.rule)
    middle = (success[0] <= patch.rule.max_attack_success) & (accuracy[0] >= patch.floor)
    places = points[:, list(patch.axes).index(along)]
    values = 10**places if log else places
    edge = Edge(
        value=_largest(values, middle),
        low=_largest(values, good),
        high=np.inf if not bad[-1] else _largest(values, ~bad) if not bad.all() else float(values[0]),
        holes=_breaks(values, middle),
    )
    missed = f"the cells left out in turn are missed by {100 * patch.errors[0]:.1f} points of attack success"
    return Edge(**{**vars(edge), "reason": f"{_said(edge, values.tolist())}, on a surface; {missed}"})


def _largest(values: "np.ndarray[Any, np.dtype[np.float64]]", flags: "np.ndarray[Any, np.dtype[np.bool_]]") -> float:
    return float(values[flags].max()) if flags.any() else float("nan")


def _breaks(
    values: "np.ndarray[Any, np.dtype[np.float64]]", flags: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> tuple[float, ...]:
    """Where a run of values that are not defended begins, below one that is."""
    last = int(np.flatnonzero(flags)[-1]) if flags.any() else -1
    starts = [i for i in range(last) if not flags[i] and (i == 0 or flags[i - 1])]
    return tuple(float(values[i]) for i in starts)


def _nothing(reason: str) -> Edge:
    return Edge(value=np.nan, low=np.nan, high=np.nan, reason=reason)


def _said(edge: Edge, values: Sequence[float]) -> str:
    if np.isnan(edge.value):
        return f"no value from {written(values[0])} to {written(values[-1])} is defended"
    parts = [f"defended up to {written(edge.value)}"]
    parts += [f"with holes at {', '.join(map(written, edge.holes))}"] * bool(edge.holes)
    parts += ["the largest measured" if np.isinf(edge.high) and edge.value == values[-1] else ""]
    parts += [f"undefended from {written(edge.high)}"] * bool(np.isfinite(edge.high))
    return ", ".join(part for part in parts if part)
