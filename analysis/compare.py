"""Two settings of a defence side by side, paired by cell and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cells import Cell
from analysis.statistics import LEVEL
from analysis.values import Value, written
from analysis.verdict import Estimate
from raybd.errors import InputError
from raybd.utils.statistics import t_interval

if TYPE_CHECKING:
    from analysis.region_map import DefendedRegionMap

Floats = NDArray[np.float64]
NONE = Estimate(float("nan"), -1.0, 1.0)  # what is known of a difference that was not measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the first of two settings changes against the second; differences are first less second."""

    first: str
    second: str
    cells: pd.DataFrame  # one row a cell that both have: means over the seeds both have, with 90 % intervals
    attack_success: Estimate  # difference, mean over seeds of the mean over cells
    clean_accuracy: Estimate
    effectiveness: float  # DER of the first with the second as its baseline, mean over pairs
    won: int  # cells in which the first defends more of the seeds that both have
    lost: int

    def __str__(self) -> str:
        tied = len(self.cells) - self.won - self.lost
        return "\n".join(
            [
                f"{self.first} against {self.second}: {len(self.cells)} cells, "
                f"{self.won} won, {self.lost} lost, {tied} tied",
                f"  attack success  {_signed(self.attack_success)}",
                f"  clean accuracy  {_signed(self.clean_accuracy)}",
                f"  DER             {self.effectiveness:.3f} (1: success gone at no cost; 0.5: nothing changed)",
            ]
        )


def compare(
    region_map: "DefendedRegionMap", first: Mapping[str, Value], second: Mapping[str, Value], fixed: Mapping[str, Value]
) -> Comparison:
    """All by full names; cells are the same but for the axes of a defence.

    Raises:
        InputError: one of the two has several settings of its defence at a cell, or they share no cell and seed.
    """
    labels = [", ".join(written(v) for v in side.values()) for side in (first, second)]
    sides = [_placed(region_map, {**side, **fixed}, label) for side, label in zip((first, second), labels, strict=True)]
    pairs = [(sides[0][at], sides[1][at]) for at in sides[0] if at in sides[1]]
    table = pd.concat([_pairs(*pair, number) for number, pair in enumerate(pairs)] or [pd.DataFrame()])
    if table.empty:
        raise InputError(f"{labels[0]} and {labels[1]} share no cell and seed")
    matched = [pairs[number] for number in table["cell"].unique()]
    leads = table.groupby("cell")["lead"].sum()
    return Comparison(
        first=labels[0],
        second=labels[1],
        cells=_cells(region_map, matched, table),
        attack_success=_over_seeds(table, "attack_success"),
        clean_accuracy=_over_seeds(table, "clean_accuracy"),
        effectiveness=float(table["effectiveness"].mean()),
        won=int((leads > 0).sum()),
        lost=int((leads < 0).sum()),
    )


def effectiveness(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Defence effectiveness rating, (max(0, fall of success) - max(0, fall of accuracy) + 1) / 2, in [0, 1].

    Args:
        before: clean accuracy and attack success without the defence.
        after: the same with it.
    """
    return (max(0.0, before[1] - after[1]) - max(0.0, before[0] - after[0]) + 1) / 2


def _placed(region_map: "DefendedRegionMap", asked: Mapping[str, Value], label: str) -> dict[tuple[Value, ...], Cell]:
    """The cells with poison at `asked`, by their place: everything that varies but the defence."""
    own = [n for n in region_map.names.varying if not n.startswith("defence.")]
    found: dict[tuple[Value, ...], Cell] = {}
    for cell in region_map.find(asked):
        if cell.poisoned and found.setdefault(tuple(cell.setting[n] for n in own), cell) is not cell:
            settings = [region_map.names.short[n] for n in region_map.names.varying if n.startswith("defence.")]
            raise InputError(f"{label} was measured at several of {', '.join(settings)}: say which")
    return found


def _pairs(a: Cell, b: Cell, number: int) -> pd.DataFrame:
    """One row a seed that both have: differences, and the rating with `b` as the baseline."""
    rates = [dict(zip(c.seeds, zip(c.clean_accuracy, c.attack_success, strict=True), strict=True)) for c in (a, b)]
    held = [dict(zip(c.seeds, c.held, strict=True)) for c in (a, b)]
    both = [seed for seed in rates[0] if seed in rates[1]]
    return pd.DataFrame(
        {
            "cell": number,
            "seed": seed,
            "clean_accuracy": rates[0][seed][0] - rates[1][seed][0],
            "attack_success": rates[0][seed][1] - rates[1][seed][1],
            "lead": int(held[0][seed]) - int(held[1][seed]),
            "effectiveness": effectiveness(before=rates[1][seed], after=rates[0][seed]),
        }
        for seed in both
    )


def _cells(region_map: "DefendedRegionMap", pairs: Sequence[tuple[Cell, Cell]], table: pd.DataFrame) -> pd.DataFrame:
    names = {n: region_map.names.short[n] for n in region_map.names.varying if not n.startswith("defence.")}
    rows = []
    for (a, b), (_, own) in zip(pairs, table.groupby("cell"), strict=True):
        row: dict[str, object] = {short: a.setting[name] for name, short in names.items()} | {"seeds": len(own)}
        for rate in ("attack_success", "clean_accuracy"):
            found = _interval(own[rate].to_numpy(float))
            row |= {rate: found.value, f"{rate}_low": found.low, f"{rate}_high": found.high}
        status = {"first": a.verdict.status, "second": b.verdict.status}
        rows.append(row | {"effectiveness": own["effectiveness"].mean()} | status)
    return pd.DataFrame(rows)


def _over_seeds(table: pd.DataFrame, rate: str) -> Estimate:
    """Seeds are what is drawn anew, the cells are a fixed grid: the interval is that of the seeds' means over cells."""
    return _interval(table.groupby("seed")[rate].mean().to_numpy(float))


def _interval(differences: Floats) -> Estimate:
    """Mean and Student's 90 % interval, cut to [-1, 1]; one seed says nothing of its spread."""
    if np.isnan(differences).any():
        return NONE
    value = float(differences.mean())
    low, high = t_interval(differences, LEVEL)
    return Estimate(value, max(-1.0, low), min(1.0, high))


def _signed(found: Estimate) -> str:
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
