"""Wording of sentences on a map: its cells, their rates and their settings."""

from collections.abc import Iterable, Sequence

from analysis.cell_table import SOURCE, CellTable
from analysis.cells import Cell
from analysis.values import format_value, is_number

DATA = ("data", "fingerprint", SOURCE)


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 setting", "2 settings"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def joined(parts: Sequence[str]) -> str:
    """The parts as a list in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def percent(rate: object) -> str:
    """A poison rate: "0.5%"."""
    return f"{100 * float(str(rate)):g}%" if is_number(rate) else str(rate)


def choice_axes(table: CellTable) -> list[str]:
    """The axes that vary and are neither the attacker's, nor a defence's, nor the data."""
    left_out = {*table.names.threat, *DATA}
    return [n for n in table.names.varying if n not in left_out and not n.startswith("defence.")]


def place_axes(table: CellTable) -> list[str]:
    """The axes that vary and that nobody who trains chooses: the attacker's and the data."""
    return [n for n in table.names.varying if n in {*table.names.threat, *DATA}]


def ordinary(cells: Iterable[Cell]) -> list[Cell]:
    """Those of `cells` that were trained without a defence."""
    return [cell for cell in cells if cell.setting.get("defence.name") in (None, "none")]


def attack_words(table: CellTable, cell: Cell) -> str:
    """The attack, with those of its settings that vary: "blended alpha=0.1"."""
    settings = [n for n in table.names.varying if n in table.names.plugin_settings("attack.name")]
    return " ".join([str(cell.setting["attack.name"]), *_assigned(table, cell, settings)])


def choice_words(table: CellTable, cell: Cell) -> str:
    """The settings of the training that vary: "weight_decay=0.04, width=1"; "" where none does."""
    return ", ".join(_assigned(table, cell, choice_axes(table)))


def defence_words(table: CellTable, cell: Cell) -> str:
    """The defence, with those of its settings that vary."""
    settings = [n for n in table.names.varying if n.startswith("defence.") and n != "defence.name"]
    return " ".join([str(cell.setting["defence.name"]), *_assigned(table, cell, settings)])


def place_words(table: CellTable, cell: Cell) -> str:
    """The attack at its poison rate, and the data where these vary: "badnets at 0.5%"."""
    return f"{attack_words(table, cell)} at {percent(cell.setting['poison_rate'])}{data_words(table, cell)}"


def data_words(table: CellTable, cell: Cell) -> str:
    """The data where they vary: " on mnist"; "" where they do not."""
    data = [n for n in table.names.varying if n in ("data", SOURCE)]
    return "".join(f" on {cell.setting[n]}" for n in data if cell.setting[n] is not None)


def listed(parts: Sequence[str], most: int = 4) -> str:
    """The first `most` of `parts`, and how many more there are."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return f"{', '.join(parts[:most])}{more}"


def _assigned(table: CellTable, cell: Cell, names: Iterable[str]) -> list[str]:
    known = [name for name in names if cell.setting[name] is not None]
    return [f"{table.names.short[name]}={format_value(cell.setting[name])}" for name in known]
