"""Settings ranked: which are defended against every attack, and which are the best."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.cell_table import SOURCE, CellTable
from analysis.cells import Cell, group_cells, mean_seconds
from analysis.robustness import DEFENCE, Robustness, robustness
from analysis.values import Value, distinct, format_value
from analysis.verdict import Status, Verdict
from raybd.errors import InputError

RANK: Mapping[Status, int] = {"defended": 0, "uncertain": 1, "kept_out": 2, "backdoored": 3, "unmeasured": 4}


def robust(table: CellTable, over: str) -> pd.DataFrame:
    """The settings of the other axes, with poison, and against how many values of the axis `over` they are defended."""
    names = table.names
    others = [n for n in names.varying if n != over and n not in names.plugin_settings(over)]
    poisoned = table.find_poisoned({})
    by_source = group_cells(poisoned, [SOURCE] * (SOURCE in others))  # one group where all trials have one
    numbers = {source: len(distinct({c.setting[over] for c in cells})) for source, cells in by_source.items()}
    rows = []
    for values, cells in group_cells(poisoned, others).items():
        setting = dict(zip(others, values, strict=True))
        number = numbers[tuple(setting[n] for n in others if n == SOURCE)]
        rows.append(names.short_setting(setting) | _count_defended(table, cells, over, number))
    columns = [names.short[n] for n in others] + ["defended against", "measured", "robust", "worst attack success"]
    return pd.DataFrame(rows, columns=columns).sort_values("robust", ascending=False, kind="stable")


def best(table: CellTable, fixed: Mapping[str, Value]) -> pd.DataFrame:
    """The settings of all axes but the attack's, the poison rate and those `fixed`, best first.

    Each is judged on all its cells with poison together, as a question that leaves them out would be. In order of the
    number of cells that are defended, then of status, of the probability, and of clean accuracy.

    Raises:
        InputError: nothing was measured at the values of `fixed`.
    """
    table.require(fixed)
    ranked = _ranked(table, fixed)
    rows = [
        table.names.short_setting(setting) | table.pooled(cells, {}).row() | _counts(table, cells)
        for setting, cells in ranked
    ]
    empty = Verdict(setting={}, status="unmeasured", reason="").row() | _counts(table, [])
    return pd.DataFrame(rows, columns=[*(table.names.short[n] for n in _chosen(table, fixed)), *empty])


def most_robust(table: CellTable, fixed: Mapping[str, Value]) -> Robustness:
    """The first of `best`, and what it is worth.

    Raises:
        InputError: nothing was measured with poison at the values of `fixed`.
    """
    table.require(fixed)
    if not (ranked := _ranked(table, fixed)):
        said = ", ".join(f"{table.names.short[n]}={format_value(v)}" for n, v in fixed.items() if v is not None)
        raise InputError(f"nothing was measured with poison at {said or 'any setting'}")
    setting, cells = ranked[0]
    whole = cells[0].setting
    defence = str(whole.get(DEFENCE, "none"))
    name = table.names.aliases.names_of(whole).replace(" ", " = ") or defence
    named = [n for n in fixed if n.startswith("defence.")]
    varying = {n: whole[n] for n in [*setting, *named] if n != DEFENCE and n in table.names.varying}
    return robustness(table, cells, name, table.names.short_setting(varying))


def _chosen(table: CellTable, fixed: Mapping[str, Value]) -> list[str]:
    """The axes that a defender chooses."""
    return [n for n in table.names.varying if n not in table.names.threat and n not in fixed]


def _ranked(table: CellTable, fixed: Mapping[str, Value]) -> list[tuple[dict[str, Value], list[Cell]]]:
    """The settings of the axes that a defender chooses, best first, with their poisoned cells."""
    axes = _chosen(table, fixed)
    groups = group_cells(table.find_poisoned(fixed), axes)
    order = sorted(groups.items(), key=lambda group: _place(table.pooled(group[1], {}), group[1]))
    return [(dict(zip(axes, values, strict=True)), cells) for values, cells in order]


def _place(verdict: Verdict, cells: Sequence[Cell]) -> tuple[float, ...]:
    defended = sum(cell.verdict.status == "defended" for cell in cells)
    chance, accuracy = (-1.0 if math.isnan(x) else x for x in (verdict.probability, verdict.clean_accuracy.value))
    return -defended, RANK[verdict.status], -chance, -accuracy


def _counts(table: CellTable, cells: Sequence[Cell]) -> dict[str, object]:
    """How many `cells` there are, how many are defended, the seconds of a trial, and the names of the setting."""
    return {
        "cells": len(cells),
        "defended": sum(cell.verdict.status == "defended" for cell in cells),
        "seconds": mean_seconds(cells),
        "alias": table.names.aliases.names_of(cells[0].setting) if cells else "",
    }


def _count_defended(table: CellTable, cells: Sequence[Cell], over: str, number: int) -> dict[str, object]:
    """Of `number` values of the axis `over` those that `cells` are defended against: at each, all cells must be."""
    verdicts = [table.pooled(group, {}) for group in group_cells(cells, [over]).values()]
    measured = [v for v in verdicts if v.status != "unmeasured"]
    defended = sum(v.status == "defended" for v in verdicts)
    return {
        "defended against": defended,
        "measured": len(measured),
        "robust": 0 < number == defended,
        "worst attack success": max((v.attack_success.value for v in measured), default=float("nan")),
    }
