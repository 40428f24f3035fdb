"""The sentence on what a sweep could not tell, and what would tell it."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from analysis.cell_table import CellTable
from analysis.cells import Cell
from analysis.decision import DecisionRule
from analysis.findings.wording import counted
from analysis.reasons import error_text
from analysis.statistics import Z
from analysis.verdict import Estimate

MOST_SEEDS = 50  # that anybody is told to run
FEWEST = 3  # seeds that tell how far seeds stray


def missing_sentence(table: CellTable) -> str:
    """How many settings are undecided and how many seeds would decide them, what was not measured, and what failed."""
    poisoned = table.find_poisoned({})
    open_ = [cell for cell in poisoned if cell.verdict.status == "uncertain"]
    parts = [_undecided(open_, len(poisoned), table.rule)] * bool(open_)
    parts += [_failed(table)] * any(cell.failures for cell in table.cells)
    empty = sum(cell.verdict.status == "unmeasured" for cell in poisoned)
    parts += [f"{counted(empty, 'setting')} with poison {'has' if empty == 1 else 'have'} no finished trial"] * bool(
        empty
    )
    return f"Not told: {'; '.join(parts)}." if parts else ""


def seeds_needed(cell: Cell, rule: DecisionRule) -> float:
    """About how many seeds would decide a cell if its means and its spread stay; infinite where no number would.

    Errors shrink with the root of the number of seeds. The backdoor takes hold: one probability must reach
    `min_probability`; it does not: two must, that of their product.
    """
    excess, loss = cell.verdict.attack_success_excess, cell.verdict.accuracy_loss
    if cell.verdict.seeds < 2:
        return FEWEST
    if excess.value > rule.max_attack_success:
        return _scaled(cell, _ratio(excess, rule.max_attack_success), rule.min_probability)
    if math.isnan(loss.value):
        return math.inf
    ratio = min(_ratio(excess, rule.max_attack_success), _ratio(loss, rule.max_accuracy_loss))
    return _scaled(cell, ratio, math.sqrt(rule.min_probability))


def _ratio(estimate: Estimate, limit: float) -> float:
    """The distance of an estimate from its limit, in standard errors, from the end of its interval that faces it."""
    side = estimate.high - estimate.value if estimate.value <= limit else estimate.value - estimate.low
    return Z * abs(estimate.value - limit) / side if side > 0 else math.inf


def _scaled(cell: Cell, ratio: float, probability: float) -> float:
    if math.isnan(ratio) or ratio == 0:
        return math.inf
    return max(cell.verdict.seeds + 1.0, math.ceil(cell.verdict.seeds * (float(ndtri(probability)) / ratio) ** 2))


def _undecided(cells: Sequence[Cell], poisoned: int, rule: DecisionRule) -> str:
    needed = np.sort([seeds_needed(cell, rule) for cell in cells])
    head = f"{len(cells)} of {counted(poisoned, 'setting')} with poison {'is' if len(cells) == 1 else 'are'} undecided"
    within = needed[needed <= MOST_SEEDS]
    if not len(within):
        return f"{head}, {_no_seeds(cells)}"
    number = int(within[min(len(within), (len(needed) + 1) // 2) - 1])  # half of them, if so many can be
    decided, run = int((needed <= number).sum()), min(cell.verdict.seeds for cell in cells)
    return f"{head}; {number} seeds instead of {run} would decide about {decided}, if means and spread stay"


def _no_seeds(cells: Sequence[Cell]) -> str:
    if any(math.isnan(cell.verdict.accuracy_loss.value) for cell in cells):
        return "for want of clean training to measure accuracy from: add poison rate 0"
    return f"and lie so near a threshold that {MOST_SEEDS} seeds would hardly decide them"


def _failed(table: CellTable) -> str:
    failures = [failure for cell in table.cells for failure in cell.verdict.failures]
    first = error_text(failures[0].partition(": ")[2]) if failures else "none recorded"
    number = sum(cell.failures for cell in table.cells)
    return f"{counted(number, 'trial')} failed (the first: {_short(first)})"


def _short(text: str, most: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
