"""The rates of cells as logits, with the variance of their errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from analysis.cells import Cell

Floats = NDArray[np.float64]
PRIOR_FREEDOM = 4.0  # degrees of freedom that the spread of all cells lends to the spread of one
DEFAULT_COUNT = 1000.0  # test images assumed behind a rate without a count: only keeps 0 and 1 finite


@dataclass(frozen=True)
class Logits:
    """One rate of n cells, in logits."""

    mean: Floats  # (n,) over seeds, of logit((successes + 1/2) / (count + 1))
    noise: Floats  # (n,) variance of that mean
    spread: float  # deviation of one seed


def logits_of(rates: Sequence[Sequence[float]], counts: Sequence[Sequence[float]]) -> Logits | None:
    """The logits of cells (each a row of seeds); None if no cell has two seeds, for nothing tells their spread then.

    The variance within a cell is (4 s^2 + (n - 1) s_c^2) / (4 + n - 1), with s_c^2 its own and s^2 that of all cells
    pooled, and at least the binomial variance of one seed, mean of 1 / (successes + 1/2) + 1 / (failures + 1/2).
    """
    rows = [_seed_logits(np.array(r), np.array(c)) for r, c in zip(rates, counts, strict=True)]
    freedom = np.array([len(row) - 1 for row, _ in rows], dtype=float)
    if not freedom.any():
        return None
    own = np.array([row.var(ddof=1) if len(row) > 1 else 0.0 for row, _ in rows])
    binomial = np.array([variance.mean() for _, variance in rows])
    pooled = float(freedom @ own / freedom.sum())
    within = np.maximum((PRIOR_FREEDOM * pooled + freedom * own) / (PRIOR_FREEDOM + freedom), binomial)
    return Logits(np.array([row.mean() for row, _ in rows]), within / (freedom + 1), float(np.sqrt(within.mean())))


def cell_logits(cells: Sequence[Cell]) -> tuple[Logits | None, Logits | None]:
    """The logits of attack success and of clean accuracy."""
    success = logits_of([c.attack_success for c in cells], [c.triggered_count for c in cells])
    return success, logits_of([c.clean_accuracy for c in cells], [c.clean_count for c in cells])


def _seed_logits(rates: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Of each seed: the logit, and its binomial variance."""
    counts = np.where(np.isnan(counts) | (counts <= 0), DEFAULT_COUNT, counts)
    yes = rates * counts + 0.5
    no = counts + 1 - yes
    logits: Floats = logit(yes / (yes + no))
    return logits, 1 / yes + 1 / no
