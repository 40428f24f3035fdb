"""Pairs of cells, one where the backdoor takes hold and one where not: in how many the first has the larger value.

All pairs are of cells at one poison rate, so that a measure that merely tells the rate is worth 1/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CellPairs:
    """The pairs of trials of n cells at one poison rate: `wins[i, j]` of `pairs[i, j]` have the larger value in i."""

    cells: Ints  # (n,) positions among all cells
    wins: Floats  # (n, n), ties half
    pairs: Floats  # (n, n)

    @classmethod
    def of(cls, values: Floats, cells: Ints) -> "CellPairs":
        """Those of trials with `values` (m,) in the cells at the positions `cells` (m,)."""
        known, member = np.unique(cells, return_inverse=True)
        larger = (values[:, None] > values) + 0.5 * (values[:, None] == values)
        belongs = np.eye(len(known))[member]  # (m, n)
        sizes = belongs.sum(0)
        return cls(known, belongs.T @ larger @ belongs, np.outer(sizes, sizes))


def pairs_by(frame: pd.DataFrame, name: str, by: Sequence[str]) -> list[CellPairs]:
    """The pairs of equal columns `by`, of a frame of observations at one epoch that all have the measure `name`."""
    groups = [part for _, part in frame.groupby(list(by))]
    return [CellPairs.of(part[name].to_numpy(float), part["cell"].to_numpy(int)) for part in groups]


def pooled_pairs(frame: pd.DataFrame, name: str) -> list[CellPairs]:
    """The pairs of all cells, whatever their rate."""
    return [CellPairs.of(frame[name].to_numpy(float), frame["cell"].to_numpy(int))]


def areas(strata: Sequence[CellPairs], takes_hold: Floats, weights: Floats | None = None) -> Floats:
    """(d,): the area under the ROC curve for each row of labels or of weights; NaN where there is no pair.

    AUC = sum w_i w_j y_i (1 - y_j) wins_ij / sum w_i w_j y_i (1 - y_j) pairs_ij, over the pairs of each stratum: the
    chance that a trial where the backdoor takes hold has the larger value (Mann & Whitney 1947).

    Args:
        strata: pairs of cells, of each poison rate.
        takes_hold: (cells,) or (d, cells), 1 or 0.
        weights: (d, cells), how often each cell was drawn; None: once.
    """
    labels = np.atleast_2d(takes_hold)
    times = np.ones_like(labels) if weights is None else weights
    won, all_pairs = (np.zeros(max(len(labels), len(times))) for _ in range(2))
    for one in strata:
        there, elsewhere = (times * labels)[:, one.cells], (times * (1 - labels))[:, one.cells]
        won = won + ((there @ one.wins) * elsewhere).sum(1)
        all_pairs = all_pairs + ((there @ one.pairs) * elsewhere).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(won / all_pairs, dtype=float)


def unseen_areas(strata: Sequence[CellPairs], takes_hold: Floats, attacks: Ints, weights: Floats) -> Floats:
    """(d, k): the AUC within each of k attacks, its direction chosen on the other attacks; NaN where it has no pair.

    Args:
        strata: pairs of cells, of each poison rate.
        takes_hold: (cells,), 1 or 0.
        attacks: (cells,), the number of each cell's attack.
        weights: (d, cells), how often each cell was drawn.
    """
    number = int(attacks.max()) + 1
    won, total = (np.zeros((len(weights), number, number)) for _ in range(2))
    for one in strata:
        belongs = np.eye(number)[attacks[one.cells]]  # (n, k)
        there, elsewhere = (weights[:, one.cells] * part[one.cells] for part in (takes_hold, 1 - takes_hold))
        left, right = there[:, None] * belongs.T, elsewhere[:, :, None] * belongs  # (d, k, n), (d, n, k)
        won += left @ one.wins @ right
        total += left @ one.pairs @ right
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.diagonal(won, axis1=1, axis2=2) / np.diagonal(total, axis1=1, axis2=2)
        direction = np.sign(_without_each(won) / _without_each(total) - 0.5)
    return np.asarray(np.where(direction == 0, np.nan, 0.5 + direction * (own - 0.5)), dtype=float)


def _without_each(blocks: Floats) -> Floats:
    """(d, k): the sum of (d, k, k) `blocks` without the row and the column of each of k."""
    rows, columns, both = blocks.sum(2), blocks.sum(1), np.diagonal(blocks, axis1=1, axis2=2)
    return np.asarray(blocks.sum((1, 2))[:, None] - rows - columns + both, dtype=float)
