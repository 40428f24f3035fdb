"""The sentence on whether defences keep out the attacks that take hold without them."""

from collections import Counter
from collections.abc import Sequence

from analysis.cell_table import CellTable
from analysis.cells import Cell, group_cells
from analysis.compare import paired_differences
from analysis.findings.wording import counted, defence_words, listed, ordinary, place_words

Pair = tuple[Cell, Cell]  # the same training with a defence and without
MOST = 2  # defences in the sentence


def defence_sentence(table: CellTable) -> str:
    """How often each defence is `defended` where an attack takes hold without it, and what it changes there.

    Of many defences the two that are most often; "" where no defence was measured with poison.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in (c for c in table.find_poisoned({}) if c.seeds and not ordinary([c])):
        groups.setdefault(defence_words(table, cell), []).append(cell)
    pairs = {name: _pairs(table, cells) for name, cells in groups.items()}
    order = sorted(groups, key=lambda name: -len(_defended(pairs[name])))
    parts = [_one_defence(table, name, groups[name], pairs[name]) for name in order[:MOST]]
    parts += [f"{counted(len(order) - MOST, 'further defence')} kept out no more"] * (len(order) > MOST)
    return f"Defences: {'; '.join(parts)}." if parts else ""


def _pairs(table: CellTable, cells: Sequence[Cell]) -> list[Pair]:
    """`cells` beside the same training without a defence, where that is backdoored."""
    axes = [name for name in table.names.varying if not name.startswith("defence.")]
    without = group_cells(ordinary(table.find_poisoned({})), axes)
    found = [(cell, without.get(tuple(cell.setting[name] for name in axes), [])) for cell in cells]
    return [(cell, other[0]) for cell, other in found if other and other[0].verdict.status == "backdoored"]


def _defended(pairs: Sequence[Pair]) -> list[Cell]:
    return [cell for cell, _ in pairs if cell.verdict.status == "defended"]


def _one_defence(table: CellTable, name: str, cells: Sequence[Cell], pairs: Sequence[Pair]) -> str:
    if not pairs:
        return _untold(name, cells)
    kept = _defended(pairs)
    counts = Counter[str](cell.verdict.status for cell, _ in pairs)
    rest = [f"{counts[s]} {word}" for s, word in (("kept_out", "at a loss of accuracy"), ("uncertain", "undecided"))]
    others = [text for text in rest if not text.startswith("0 ")]
    named = [f"({listed([place_words(table, cell) for cell in kept])})"] * bool(kept)
    success, accuracy = paired_differences(pairs)
    return (
        f"{' '.join([name, f'is defended at {len(kept)} of', counted(len(pairs), 'setting'), *named])}"
        f" where an attack takes hold without it{''.join(f', {text}' for text in others)}"
        f"; there it changes attack success by {success.points} and clean accuracy by {accuracy.points}"
    )


def _untold(name: str, cells: Sequence[Cell]) -> str:
    most = max(cells, key=lambda cell: cell.verdict.attack_success_excess.value)
    excess = most.verdict.attack_success_excess.points
    return f"{name} was measured at no setting where an attack surely takes hold without it (with it, at most {excess})"
