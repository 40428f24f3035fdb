"""Settings ranked: which hold off every attack, and which are the best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis.cells import Cell
from analysis.values import Value, distinct
from analysis.verdict import Status, Verdict, pooled

if TYPE_CHECKING:
    from analysis.region_map import DefendedRegionMap

ORDER: Mapping[Status, int] = {"defended": 0, "uncertain": 1, "undefended": 2, "unmeasured": 3}


def robust(region_map: "DefendedRegionMap", name: str) -> pd.DataFrame:
    """The settings of the other axes, with poison, and how many values of the axis `name` they hold off."""
    names = region_map.names
    others = [n for n in names.varying if n != name and n not in names.settings_of(name)]
    poisoned = [cell for cell in region_map.cells if cell.poisoned]
    groups = _grouped(poisoned, others)
    rows = []
    for at, cells in groups.items():
        setting = dict(zip(others, at, strict=True))
        everything = distinct(c.setting[name] for c in poisoned if c.setting.get("source") == setting.get("source"))
        rows.append({names.short[n]: v for n, v in setting.items()} | _held_off(cells, name, everything))
    columns = [names.short[n] for n in others] + ["defended against", "measured", "robust", "worst attack success"]
    return pd.DataFrame(rows, columns=columns).sort_values("robust", ascending=False, kind="stable")


def best(region_map: "DefendedRegionMap", fixed: Mapping[str, Value]) -> pd.DataFrame:
    """The settings of all axes but the attack's, the poison rate and those `fixed`, best first.

    Each is judged on all its cells with poison together, as a question that leaves them out would be. In order of
    status, then of the probability, then of clean accuracy.
    """
    names = region_map.names
    threat = ["attack.name", *names.settings_of("attack.name"), "poison_rate"]
    others = [n for n in names.varying if n not in threat and n not in fixed]
    groups = _grouped([c for c in region_map.find(fixed) if c.poisoned], others)
    rows = []
    for at, cells in groups.items():
        free = {names.short[n]: len({c.setting[n] for c in cells}) for n in names.varying}
        verdict = _together(cells, {n: k for n, k in free.items() if k > 1})
        rows.append(
            {names.short[n]: v for n, v in zip(others, at, strict=True)} | verdict.row() | {"cells": len(cells)}
        )
    columns = [*(names.short[n] for n in others), *Verdict(setting={}, status="unmeasured", reason="").row(), "cells"]
    found = pd.DataFrame(rows, columns=columns)
    found = found.assign(rank=found["status"].map(ORDER))
    keys = ["rank", "probability", "clean_accuracy"]
    found = found.sort_values(keys, ascending=[True, False, False], kind="stable", ignore_index=True)
    return found.drop(columns="rank")


def _together(cells: Sequence[Cell], free: Mapping[str, int]) -> Verdict:
    verdicts = [cell.verdict for cell in cells]
    return verdicts[0] if len(verdicts) == 1 else pooled(verdicts, {}, free)


def _grouped(cells: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Value, ...], list[Cell]]:
    groups: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.setting[n] for n in names), []).append(cell)
    return groups


def _held_off(cells: Sequence[Cell], over: str, everything: Sequence[Value]) -> dict[str, object]:
    """Of `everything` that `over` may be: what the cells hold off, where several cells share a value: all of them."""
    by_value = _grouped(cells, [over])
    verdicts = [_together(found, {}) for found in by_value.values()]
    measured = [v for v in verdicts if v.status != "unmeasured"]
    defended = sum(v.status == "defended" for v in verdicts)
    return {
        "defended against": defended,
        "measured": len(measured),
        "robust": defended == len(everything),
        "worst attack success": max((v.attack_success.value for v in measured), default=float("nan")),
    }
