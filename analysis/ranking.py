"""Settings ranked: which are defended against every attack, and which are the best."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.cell_table import SOURCE, CellTable
from analysis.cells import Cell, group_cells
from analysis.values import Value, distinct
from analysis.verdict import Status, Verdict

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

    Each is judged on all its cells with poison together, as a question that leaves them out would be. In order of
    status, then of the probability, then of clean accuracy.
    """
    names = table.names
    threat = ["attack.name", *names.plugin_settings("attack.name"), "poison_rate"]
    others = [n for n in names.varying if n not in threat and n not in fixed]
    rows = []
    for values, cells in group_cells(table.find_poisoned(fixed), others).items():
        setting = names.short_setting(dict(zip(others, values, strict=True)))
        rows.append(setting | table.pooled(cells, {}).row() | {"cells": len(cells)})
    columns = [*(names.short[n] for n in others), *Verdict(setting={}, status="unmeasured", reason="").row(), "cells"]
    ranked = pd.DataFrame(rows, columns=columns)
    ranked = ranked.assign(rank=ranked["status"].map(RANK))
    keys = ["rank", "probability", "clean_accuracy"]
    ranked = ranked.sort_values(keys, ascending=[True, False, False], kind="stable", ignore_index=True)
    return ranked.drop(columns="rank")


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
