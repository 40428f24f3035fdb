"""The sentence on where each attack takes hold."""

from collections.abc import Sequence

from analysis.cell_table import CellTable
from analysis.cells import Cell
from analysis.findings.wording import attack_words, choice_words, counted, data_words, defence_words, ordinary, percent
from analysis.values import distinct

MOST = 3  # attacks in the sentence


def attack_sentence(table: CellTable) -> str:
    """The lowest poison rate at which each attack takes hold in training without a defence, with its success there.

    Each data set is told apart. Of many attacks the three that take hold at the lowest rates; "" without a measured
    cell with poison.
    """
    measured = [cell for cell in table.find_poisoned({}) if cell.seeds]
    attacks: dict[str, list[Cell]] = {}
    for cell in ordinary(measured) or measured:
        attacks.setdefault(attack_words(table, cell) + data_words(table, cell), []).append(cell)
    if not attacks:
        return ""
    order = sorted(attacks, key=lambda name: _first_rate(attacks[name]))
    parts = [_one_attack(table, name, attacks[name]) for name in order[:MOST]]
    return f"{_heading(measured)}: {'; '.join([*parts, *_others(attacks, order[MOST:])])}."


def _heading(measured: Sequence[Cell]) -> str:
    twins = {cell.verdict.above_twins for cell in measured}
    some = " where there are" * (len(twins) > 1)
    success = (
        f"attack success above the clean twins'{some}"
        if True in twins
        else "attack success; no clean twin was measured"
    )
    training = "without a defence" if ordinary(measured) else "with a defence, the only training measured"
    return f"Where an attack takes hold {training} ({success}, 90% interval)"


def _first_rate(cells: Sequence[Cell]) -> float:
    """The lowest poison rate at which one of `cells` is backdoored; infinite if none is."""
    return min((float(str(c.setting["poison_rate"])) for c in _taken(cells)), default=float("inf"))


def _taken(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.verdict.status == "backdoored"]


def _excess(cell: Cell) -> float:
    return cell.verdict.attack_success_excess.value


def _one_attack(table: CellTable, name: str, cells: Sequence[Cell]) -> str:
    if not _taken(cells):
        return _nowhere(table, name, cells)
    lowest = [c for c in _taken(cells) if float(str(c.setting["poison_rate"])) == _first_rate(cells)]
    most = max(lowest, key=_excess)
    where = f" at {_training(table, most)}" if _training(table, most) else ""
    first = f"{name} first at {percent(_first_rate(cells))} poison ({most.verdict.attack_success_excess.points}{where})"
    return first + _everywhere(cells)


def _training(table: CellTable, cell: Cell) -> str:
    defence = [] if ordinary([cell]) else [defence_words(table, cell)]
    return ", ".join(filter(None, [*defence, choice_words(table, cell)]))


def _everywhere(cells: Sequence[Cell]) -> str:
    """From which rate on all settings are backdoored, where there are several settings."""
    rates = distinct(cell.setting["poison_rate"] for cell in cells)
    groups = [[c for c in cells if c.setting["poison_rate"] == rate] for rate in rates]
    first = len(rates)
    while first and len(_taken(groups[first - 1])) == len(groups[first - 1]):
        first -= 1
    if max(map(len, groups)) == 1:
        return ""
    return (
        f", at every setting from {percent(rates[first])} on"
        if first < len(rates)
        else ", but at no rate at every setting"
    )


def _nowhere(table: CellTable, name: str, cells: Sequence[Cell]) -> str:
    most, highest = max(cells, key=_excess), max(float(str(c.setting["poison_rate"])) for c in cells)
    open_ = sum(cell.verdict.status == "uncertain" for cell in cells)
    doubt = f", {counted(open_, 'setting')} undecided" if open_ else ""
    at = f"{percent(most.setting['poison_rate'])}{f' at {w}' if (w := _training(table, most)) else ''}"
    points = most.verdict.attack_success_excess.points
    return f"{name} surely nowhere up to {percent(highest)}{doubt} (most: {points} at {at})"


def _others(attacks: dict[str, list[Cell]], rest: Sequence[str]) -> list[str]:
    if not rest:
        return []
    taken = sum(bool(_taken(attacks[name])) for name in rest)
    return [f"of {counted(len(rest), 'further attack')} {taken} take hold somewhere"]
