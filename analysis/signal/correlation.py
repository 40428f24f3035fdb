"""Rank correlation of a measure with attack success, with the poison rate taken out, and its draws over cells."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def rank_correlations(frame: pd.DataFrame, name: str, success: str, weights: Floats) -> tuple[Floats, Floats]:
    """Spearman's correlation (d,) of two columns, and the same given the poison rate, for each row of weights.

    The partial correlation of ranks is (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)), z the rate (Kendall 1942);
    r_xy where the rate does not vary. Ranks are those of all trials; a draw weighs the trials of a cell together. NaN
    where a column does not vary.

    Args:
        frame: observations at one epoch.
        name: column of the measure.
        success: column that it is compared with.
        weights: (d, cells), how often each cell was drawn.
    """
    ranks = [rankdata(frame[column]) for column in (name, success, "poison_rate")]
    products = np.stack([np.ones(len(frame)), *ranks, *(a * b for a in ranks for b in ranks)], 1)
    sums = np.zeros((weights.shape[1], products.shape[1]))
    np.add.at(sums, frame["cell"].to_numpy(int), products)
    drawn = weights @ sums  # (d, 13)
    means = drawn[:, 1:4] / drawn[:, :1]
    covariances = (drawn[:, 4:] / drawn[:, :1]).reshape(-1, 3, 3) - means[:, :, None] * means[:, None]
    return _partial(covariances)


def _partial(covariances: Floats) -> tuple[Floats, Floats]:
    """r_xy and r_xy given z, (d,) each, of covariances (d, 3, 3) of x, y and z."""
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    flat = variances < 1e-9 * (1 + variances.max(1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = covariances / np.sqrt(variances[:, :, None] * variances[:, None])
        r = np.where(flat[:, :, None] | flat[:, None], np.nan, r)
        plain, with_rate, rate = r[:, 0, 1], r[:, 0, 2], r[:, 1, 2]
        given = (plain - with_rate * rate) / np.sqrt((1 - with_rate**2) * (1 - rate**2))
    return plain, np.where(flat[:, 2], plain, given)
