"""The map as a table for the terminal."""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.cells import Cell
from analysis.region_map import DefendedRegionMap
from analysis.text_table import align_columns, format_mean_std
from analysis.values import format_value


def summary(region_map: DefendedRegionMap) -> str:
    """One line a cell: its setting, mean and standard deviation over seeds in percent, and the verdict.

    Excess: of attack success over the clean twins'; loss: of clean accuracy under the reference; both in points. P: the
    probability that the cell is defended.
    """
    return "\n".join([align_columns(_lines(region_map)), *region_map.table.notes])


def summary_frame(region_map: DefendedRegionMap) -> pd.DataFrame:
    """The table of `summary`, its cells as text."""
    head, *lines = _lines(region_map)
    return pd.DataFrame(lines, columns=head)


def _lines(region_map: DefendedRegionMap) -> list[list[str]]:
    names = region_map.table.names
    head = [*(names.short[name] for name in names.shown), "ACC %", "ASR %", "excess", "loss", "P %", "verdict"]
    return [head, *(_line(cell, names.shown) for cell in region_map.cells)]


def _line(cell: Cell, shown: Sequence[str]) -> list[str]:
    failed = f" ({cell.failures} failed)" if cell.failures else ""
    return [
        *("-" if cell.setting[name] is None else format_value(cell.setting[name]) for name in shown),
        format_mean_std(cell.clean_accuracy),
        format_mean_std(cell.attack_success),
        *(_percent(estimate.value, 1) for estimate in (cell.verdict.attack_success_excess, cell.verdict.accuracy_loss)),
        _percent(cell.verdict.probability, 0),
        cell.verdict.status + failed,
    ]


def _percent(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f}"
