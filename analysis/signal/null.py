"""The null of the area under the ROC curve: verdicts permuted among the cells of a rate, for all measures together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.signal.pairs import CellPairs, areas

Floats = NDArray[np.float64]
PERMUTATIONS = 2000


def permuted_labels(takes_hold: Floats, rates: Floats, draws: int = PERMUTATIONS) -> Floats:
    """(draws, cells): the labels in random order among the cells of each rate."""
    rng = np.random.default_rng(1)
    found = np.tile(takes_hold, (draws, 1))
    for rate in np.unique(rates):
        at = np.flatnonzero(rates == rate)
        found[:, at] = rng.permuted(found[:, at], axis=1)
    return found


def adjusted_p_values(tests: Sequence[Sequence[CellPairs]], takes_hold: Floats, rates: Floats) -> Floats:
    """(tests,): p values of AUC = 1/2 within rates, corrected for all tests by the maximum of the permutations.

    Each |AUC - 1/2| is divided by its deviation under permuted labels; the p value is the share of permutations in
    which the largest of all tests is at least as large (Westfall & Young 1993), which keeps the correlation between
    measures. 1 where a test has no pair.

    Args:
        tests: the pairs of cells of each measure and epoch.
        takes_hold: (cells,), 1 or 0.
        rates: (cells,), the poison rate of each.
    """
    labels = permuted_labels(takes_hold, rates)
    observed, largest = [], np.zeros(len(labels))
    for strata in tests:
        null, own = np.abs(areas(strata, labels) - 0.5), np.abs(areas(strata, takes_hold)[0] - 0.5)
        deviation = np.sqrt(np.nanmean(null**2)) if np.isfinite(null).any() else 0.0
        observed.append(own / deviation if deviation else np.nan)
        largest = np.fmax(largest, null / deviation if deviation else np.nan)
    beyond = [(1 + (largest >= value - 1e-12).sum()) / (1 + len(labels)) for value in observed]
    return np.where(np.isnan(observed), 1.0, beyond)
