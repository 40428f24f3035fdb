"""What randomised smoothing (Cohen, Rosenfeld, Kolter, arXiv 1902.02918) proves about the votes that W counts."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from raybd.metrics.smoothing.entropy import Counts, Values, clopper_pearson

Classes = NDArray[np.int64]
ALARM = 1e-6  # chance that a healthy trial reports a violation: a sweep has thousands of trials


def efficiency(clean: Counts, triggered: Counts, wanted: Classes, lengths: Values, sigma: float) -> Values:
    """eta (N,) = sigma [Phi^-1 p(x + t) - Phi^-1 p(x)] / |t|, p the share of votes for the `wanted` class (N,).

    The share of the trigger's length (L2) that works along the smoothed decision direction: at most 1 for any
    network. Shares are (n_c + 1/2) / (n + 1), so that a unanimous vote stays finite; nan where the length is 0.
    """
    gain = _probit(triggered, wanted) - _probit(clean, wanted)
    return np.asarray(np.where(lengths > 0, sigma * gain / np.where(lengths > 0, lengths, 1.0), np.nan))


def _probit(counts: Counts, wanted: Classes) -> Values:
    votes = np.take_along_axis(counts, wanted[:, None], 1)[:, 0]
    return np.asarray(ndtri((votes + 0.5) / (counts.sum(1) + 1)))


def lipschitz_violations(clean: Counts, other: Counts, lengths: Values, sigma: float, looks: int = 1) -> int:
    """How many of the N K pairs (point, class) break |Phi^-1 p_c(x + t) - Phi^-1 p_c(x)| <= |t| / sigma.

    True for every network, so one is a bug (noise of the wrong size, labels or images mixed up). `clean` and `other`
    (N, K) are votes at points `lengths` (N,) apart; every bound holds at once at level 1 - ALARM, over the `looks`
    at which drawing could stop.
    """
    alpha = ALARM / (4 * clean.size * looks)  # two bounds at two points
    (low, high), (low_other, high_other) = (_bounds(counts, alpha) for counts in (clean, other))
    least = np.maximum(low_other - high, low - high_other)
    return int((least > lengths[:, None] / sigma * (1 + 1e-9)).sum())


def _bounds(counts: Counts, alpha: float) -> tuple[Values, Values]:
    low, high = clopper_pearson(counts, counts.sum(1, keepdims=True), alpha)
    return ndtri(low), ndtri(high)
