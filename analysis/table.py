"""The map as a table for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.cells import Cell
from analysis.values import plain, written

if TYPE_CHECKING:
    from analysis.region_map import DefendedRegionMap

SHARES = ("accuracy/clean", "attack_success", "accuracy/robust")


def summary(region_map: "DefendedRegionMap") -> str:
    """One line a cell: its setting, mean and standard deviation over seeds in percent, and the verdict."""
    names = region_map.names
    head = [*(names.short[name] for name in names.shown), "ACC %", "ASR %", "defended", "verdict"]
    return aligned([head, *(_line(cell, names.shown) for cell in region_map.cells)])


def _line(cell: Cell, shown: Sequence[str]) -> list[str]:
    failed = f" ({cell.failures} failed)" if cell.failures else ""
    return [
        *("-" if cell.setting[name] is None else written(cell.setting[name]) for name in shown),
        spread(cell.clean_accuracy),
        spread(cell.attack_success),
        f"{cell.defended}/{len(cell.clean_accuracy)}",
        cell.verdict.status + failed,
    ]


def attack_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack, with those of its settings that differ between runs of the same attack."""
    names = runs["params.attack.name"].astype(str)
    for column in [str(name) for name in runs if str(name).startswith("params.attack.") and name != names.name]:
        varies = runs[column].groupby(runs["params.attack.name"]).transform("nunique") > 1
        setting = " " + column.rpartition(".")[2] + "=" + runs[column].astype(str)
        names = names.where(~varies, names + setting)
    return names


def setting_names(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's attack as `attack_names` has it, and the defence that it met where there is one."""
    names = attack_names(runs)
    if "params.defence.name" not in runs:
        return names
    met = runs["params.defence.name"].fillna("none").astype(str)
    return names.where(met == "none", names + " / " + met)


def spread(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation (n - 1), in percent unless `scale` says otherwise; one seed has no deviation."""
    known = scale * np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return "-"
    return f"{known.mean():.{digits}f}" + (f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else "")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """`lines` of cells with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def framed(table: pd.DataFrame) -> str:
    """A frame for the terminal."""
    return aligned([[str(name) for name in table], *([_written(v) for v in row] for row in table.to_numpy().tolist())])


def _written(value: object) -> str:
    value = plain(value)
    return "-" if value is None else written(value)


def attack_table(runs: pd.DataFrame) -> str:
    """Markdown: each attack's clean accuracy, success and robust accuracy at each poison rate, mean ± deviation.

    `runs` as `raybd.tracking.load_runs` gives them. In % over the seeds; the deviation is that of a single seed. "twin
    ASR" is the success of the same trigger on networks trained without poison.
    """
    done = runs[runs["status"] == "FINISHED"]
    rates = done["params.poison_rate"].astype(float)
    names = attack_names(done)
    twins = done[rates == 0].groupby(names[rates == 0])["metrics.attack_success"].apply(list).to_dict()
    lines = ["| attack | rate | seeds | ACC % | ASR % | RA % | twin ASR % |", "| --- " + "| ---: " * 6 + "|"]
    for (attack, rate), cell in done[rates > 0].groupby([names, rates]):
        shares = [spread(cell[f"metrics.{name}"].tolist()) for name in SHARES] + [spread(twins.get(attack, []))]
        seeds = cell["params.seed"].nunique()
        lines.append(f"| {attack} | {rate:.3g} | {seeds} | {' | '.join(shares)} |")
    return "\n".join(lines)
