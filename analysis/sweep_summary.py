"""The summary of a sweep for a terminal: what was found, in sentences, then tables of at most 80 columns."""

import csv
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells
from analysis.findings.wording import percent
from analysis.region_map import DefendedRegionMap
from analysis.text_table import align_columns
from analysis.values import Value, distinct, format_value
from raybd.utils.files import write_errors

WIDTH = 80  # columns of a terminal
MARKS = {"defended": "D", "kept_out": "K", "backdoored": "B", "uncertain": "?", "unmeasured": "-"}
LEGEND = "B: it takes hold, D: defended, K: kept out at a loss of accuracy, ?: undecided"


@dataclass(frozen=True)
class SummaryTable:
    """A table of a summary: its title, its lines of cells, the heading first, and its name as a CSV file."""

    title: str
    lines: Sequence[Sequence[str]]
    name: str


def summary_text(sentences: Sequence[str], tables: Sequence[SummaryTable], folder: Path) -> tuple[str, list[Path]]:
    """The sentences as a list, the tables that fit in 80 columns, and for each table its CSV file in `folder`."""
    shown = [table for table in tables if table.lines]
    files = [_write(table, folder) for table in shown]
    blocks = [_block(table, path) for table, path in zip(shown, files, strict=True)]
    return "\n\n".join([bullets(sentences), *blocks]), files


def bullets(sentences: Sequence[str]) -> str:
    """The sentences as a list within 80 columns."""
    return "\n".join(textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ") for text in sentences)


def grid_table(region_map: DefendedRegionMap, name: str = "map.csv") -> SummaryTable:
    """The map with a column a poison rate and a line for each setting of the other axes, attacks apart.

    An entry is attack success in excess of the clean twins', in points, and a letter for the verdict.
    """
    table = region_map.table
    axes = [n for n in table.names.shown if n != "poison_rate"]
    cells = table.find_poisoned({})
    rates = distinct(cell.setting["poison_rate"] for cell in cells)
    head = [*(table.names.short[n] for n in axes), *map(percent, rates)]
    groups = group_cells(cells, axes)
    order = sorted(
        groups, key=lambda values: [_position(v, table.measured(n)) for n, v in zip(axes, values, strict=True)]
    )
    lines = [_grid_line(table, axes, rates, groups[values]) for values in order]
    title = f"Attack success above the clean twins', in points, at each poison rate\n({LEGEND})"
    return SummaryTable(title, [head, *lines] if cells else [], name)


def _position(value: Value, among: Sequence[Value]) -> int:
    """Where `value` stands `among` values, what is missing first."""
    return -1 if value is None else among.index(value)


def _grid_line(table: CellTable, axes: Sequence[str], rates: Sequence[Value], cells: Sequence[Cell]) -> list[str]:
    setting = [cells[0].setting[name] for name in axes]
    entries = [[cell for cell in cells if cell.setting["poison_rate"] == rate] for rate in rates]
    return [*("-" if v is None else format_value(v) for v in setting), *map(_entry, entries)]


def _entry(cells: Sequence[Cell]) -> str:
    if not cells or not cells[0].seeds:
        return MARKS["unmeasured"]
    verdict = cells[0].verdict
    return f"{100 * verdict.attack_success_excess.value:.0f} {MARKS[verdict.status]}".replace("-0 ", "0 ")


def _write(table: SummaryTable, folder: Path) -> Path:
    path = folder / table.name
    with write_errors(path), path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table.lines)
    return path


def _block(table: SummaryTable, path: Path) -> str:
    text = align_columns(table.lines)
    if max(map(len, text.splitlines())) > WIDTH:
        return f"{table.title}:\n  wider than {WIDTH} columns: {path}"
    return f"{table.title}\n{text}"
