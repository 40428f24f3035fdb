"""The map as a table for the terminal."""

from collections.abc import Sequence

from analysis.cells import Cell
from analysis.region_map import DefendedRegionMap
from analysis.text_table import align_columns, format_mean_std
from analysis.values import format_value


def summary(region_map: DefendedRegionMap) -> str:
    """One line a cell: its setting, mean and standard deviation over seeds in percent, and the verdict."""
    names = region_map.table.names
    head = [*(names.short[name] for name in names.shown), "ACC %", "ASR %", "defended", "verdict"]
    return align_columns([head, *(_line(cell, names.shown) for cell in region_map.cells)])


def _line(cell: Cell, shown: Sequence[str]) -> list[str]:
    failed = f" ({cell.failures} failed)" if cell.failures else ""
    return [
        *("-" if cell.setting[name] is None else format_value(cell.setting[name]) for name in shown),
        format_mean_std(cell.clean_accuracy),
        format_mean_std(cell.attack_success),
        f"{cell.n_defended}/{len(cell.seeds)}",
        cell.verdict.status + failed,
    ]
