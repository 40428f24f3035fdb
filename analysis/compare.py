"""Comparison of two defences, paired by cell and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells
from analysis.defences import effectiveness
from analysis.html import frame_html
from analysis.statistics import LEVEL
from analysis.values import Value, format_value
from analysis.verdict import Estimate
from raybd.errors import InputError
from raybd.utils.html import facts
from raybd.utils.statistics import t_interval

UNMEASURED = Estimate(float("nan"), -1.0, 1.0)  # a difference that was not measured
Place = tuple[Value, ...]  # the values of all axes but those of a defence


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
                f"  attack success  {_in_points(self.attack_success)}",
                f"  clean accuracy  {_in_points(self.clean_accuracy)}",
                f"  DER             {self.effectiveness:.3f} (1: success gone at no cost; 0.5: nothing changed)",
            ]
        )

    def _repr_html_(self) -> str:
        head, *lines = str(self).splitlines()
        said = facts((line[:18].strip(), line[18:]) for line in lines)
        return f"<div><b>{escape(head)}</b>{said}{frame_html(self.cells)}</div>"


def compare(
    table: CellTable,
    first: Mapping[str, Value],
    second: Mapping[str, Value],
    fixed: Mapping[str, Value],
    named: Sequence[Mapping[str, Value]],
) -> Comparison:
    """The comparison of two settings of a defence (by full names), `named` as asked, over the cells that both have.

    Raises:
        InputError: one of the two has several settings of its defence at a cell, they share no cell and seed, or
            nothing was measured there.
    """
    for side in (first, second):
        table.require({**side, **fixed})
    labels = [", ".join(format_value(value) for value in side.values()) for side in named]
    one, other = (
        _cells_by_place(table, {**side, **fixed}, label) for side, label in zip((first, second), labels, strict=True)
    )
    pairs = [(one[place], other[place]) for place in one if place in other]
    seeds = _seed_differences(pairs)
    if seeds.empty:
        raise InputError(f"{labels[0]} and {labels[1]} share no cell and seed")
    leads = seeds.groupby("cell")["lead"].sum()
    return Comparison(
        first=labels[0],
        second=labels[1],
        cells=_cell_differences(table, [pairs[number] for number in seeds["cell"].unique()], seeds),
        attack_success=_over_seeds(seeds, "attack_success"),
        clean_accuracy=_over_seeds(seeds, "clean_accuracy"),
        effectiveness=float(seeds["effectiveness"].mean()),
        won=int((leads > 0).sum()),
        lost=int((leads < 0).sum()),
    )


def paired_differences(pairs: Sequence[tuple[Cell, Cell]]) -> tuple[Estimate, Estimate]:
    """Attack success and clean accuracy of the first cells less those of the second, paired by seed, over all pairs."""
    seeds = _seed_differences(pairs)
    if seeds.empty:
        return UNMEASURED, UNMEASURED
    return _over_seeds(seeds, "attack_success"), _over_seeds(seeds, "clean_accuracy")


def _place_axes(table: CellTable) -> list[str]:
    return [n for n in table.names.varying if not n.startswith("defence.")]


def _cells_by_place(table: CellTable, setting: Mapping[str, Value], label: str) -> dict[Place, Cell]:
    groups = group_cells(table.find_poisoned(setting), _place_axes(table))
    if any(len(cells) > 1 for cells in groups.values()):
        settings = [table.names.short[n] for n in table.names.varying if n.startswith("defence.")]
        raise InputError(f"{label} was measured at several of {', '.join(settings)}: say which")
    return {place: cell for place, [cell] in groups.items()}


def _seed_differences(pairs: Sequence[tuple[Cell, Cell]]) -> pd.DataFrame:
    """One row a seed that both cells of a pair have: differences, and the effectiveness with the second as baseline."""
    both = _rates([a for a, _ in pairs]).merge(_rates([b for _, b in pairs]), on=["cell", "seed"], suffixes=("", "_2"))
    accuracy, success = both["accuracy"] - both["accuracy_2"], both["success"] - both["success_2"]
    return both[["cell", "seed"]].assign(
        clean_accuracy=accuracy,
        attack_success=success,
        lead=both["defended"].astype(int) - both["defended_2"].astype(int),
        effectiveness=effectiveness(-success, -accuracy),
    )


def _rates(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a seed of each cell, which is named by its number."""
    rows = [
        (number, *seed)
        for number, c in enumerate(cells)
        for seed in zip(c.seeds, c.clean_accuracy, c.attack_success, c.seed_defended, strict=True)
    ]
    return pd.DataFrame(rows, columns=["cell", "seed", "accuracy", "success", "defended"])


def _cell_differences(table: CellTable, pairs: Sequence[tuple[Cell, Cell]], seeds: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (a, b), (_, own) in zip(pairs, seeds.groupby("cell"), strict=True):
        row = table.names.short_setting({n: a.setting[n] for n in _place_axes(table)}) | {"seeds": len(own)}
        for rate in ("attack_success", "clean_accuracy"):
            row |= _interval(own[rate].to_numpy(float)).row(rate)
        status = {"first": a.verdict.status, "second": b.verdict.status}
        rows.append(row | {"effectiveness": own["effectiveness"].mean()} | status)
    return pd.DataFrame(rows)


def _over_seeds(seeds: pd.DataFrame, rate: str) -> Estimate:
    """Seeds are what is drawn anew, the cells are a fixed grid: the interval is that of the seeds' means over cells."""
    return _interval(seeds.groupby("seed")[rate].mean().to_numpy(float))


def _interval(differences: NDArray[np.float64]) -> Estimate:
    """Mean and Student's 90 % interval, cut to [-1, 1]; one seed says nothing of its spread."""
    if np.isnan(differences).any():
        return UNMEASURED
    value = float(differences.mean())
    low, high = t_interval(differences, LEVEL)
    return Estimate(value, max(-1.0, low), min(1.0, high))


def _in_points(difference: Estimate) -> str:
    value, low, high = difference.in_points
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
