"""The sentence on the setting of ordinary training that keeps backdoors out, and what it costs."""

from collections.abc import Sequence

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells
from analysis.findings.wording import choice_axes, choice_words, counted, listed, ordinary, place_axes, place_words
from analysis.verdict import Status

UNDER = "under the best clean training"


def keep_out_sentence(table: CellTable) -> str:
    """The setting that is defended at most of the attacks and rates that take hold at another; "" if none takes hold.

    Without a defence. Where no setting is defended, the one that keeps most out at a loss of accuracy.
    """
    places = group_cells(ordinary(table.find_poisoned({})), place_axes(table))
    contested = [cells for cells in places.values() if any(c.verdict.status == "backdoored" for c in cells)]
    if not contested:
        return ""
    if not choice_axes(table):
        return (
            "What setting keeps a backdoor out cannot be told: nothing but the attack, its rate and the defence varies."
        )
    cells = [cell for place in contested for cell in place]
    settings = list(group_cells(cells, choice_axes(table)).values())
    return (
        _defended(table, settings, len(contested)) or _kept_out(table, settings, len(contested)) or _none(table, cells)
    )


def _defended(table: CellTable, settings: Sequence[Sequence[Cell]], contested: int) -> str:
    best = _most(settings, "defended")
    if not best:
        return ""
    most = max(best, key=lambda cell: cell.verdict.accuracy_loss.value)
    return f"{_which(table, best, 'defended', contested)}, with clean accuracy at most {_points(most)} {UNDER}."


def _kept_out(table: CellTable, settings: Sequence[Sequence[Cell]], contested: int) -> str:
    best = _most(settings, "kept_out")
    if not best:
        return ""
    least = min(best, key=lambda cell: cell.verdict.accuracy_loss.value)
    kept = _which(table, best, "kept out", contested)
    return f"{kept}, but only at a loss: clean accuracy is at least {_points(least)} {UNDER}."


def _none(table: CellTable, cells: Sequence[Cell]) -> str:
    least = min(cells, key=lambda cell: _known(cell.verdict.attack_success_excess.value))
    where = f"{place_words(table, least)}, {choice_words(table, least)}"
    excess = least.verdict.attack_success_excess.points
    return (
        "No setting without a defence surely keeps out an attack at a rate at which it takes hold at another; the "
        f"least attack success is {excess} above the clean twins' ({where})."
    )


def _most(settings: Sequence[Sequence[Cell]], status: Status) -> list[Cell]:
    """The cells of `status` of the setting that has most of them; of several, the one that costs least."""
    found = [[cell for cell in cells if cell.verdict.status == status] for cells in settings]
    return max(found, key=lambda cells: (len(cells), -sum(c.verdict.accuracy_loss.value for c in cells)), default=[])


def _which(table: CellTable, cells: Sequence[Cell], status: str, contested: int) -> str:
    places = listed([place_words(table, cell) for cell in cells])
    of = f"{len(cells)} of {counted(contested, 'pair')} of attack and rate that take hold at some setting"
    return f"Without a defence, {choice_words(table, cells[0])} is {status} at {of} ({places})"


def _points(cell: Cell) -> str:
    return cell.verdict.accuracy_loss.points


def _known(value: float) -> float:
    return value if value == value else float("inf")
