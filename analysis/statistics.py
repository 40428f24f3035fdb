"""Intervals of rates from a few seeds and a few thousand test images.

Sources: Wilson, JASA 22 (1927) 209; Brown, Cai & DasGupta, Statistical Science 16 (2001) 101 (Jeffreys).
"""

from functools import cache
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from analysis.verdict import UNMEASURED, Estimate
from raybd.utils.statistics import t_interval

Floats = NDArray[np.float64]
TAIL = 0.05  # left out at either end: every interval holds 90 %
LEVEL = 1 - 2 * TAIL
Z = float(stats.norm.ppf(1 - TAIL))


@cache
def jeffreys(defended: int, seeds: int, quantile: float) -> float:
    """Quantile of the chance that a new seed is defended: of Beta(defended + 1/2, seeds - defended + 1/2)."""
    return float(stats.beta.ppf(quantile, defended + 0.5, seeds - defended + 0.5))


def chance_defended(defended: int, seeds: int) -> float:
    """Mean of that distribution, (defended + 1/2) / (seeds + 1)."""
    return (defended + 0.5) / (seeds + 1)


@cache
def least_seeds() -> int:
    """The fewest seeds that, if all agree, decide a cell."""
    return next(n for n in count(1) if jeffreys(n, n, TAIL) > 0.5)


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's 90 % interval of a rate: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    p = successes / trials
    half = Z * np.sqrt(p * (1 - p) / trials + Z**2 / (4 * trials**2))
    middle, scale = p + Z**2 / (2 * trials), 1 + Z**2 / trials
    return float(max(0.0, (middle - half) / scale)), float(min(1.0, (middle + half) / scale))


def estimate(rates: Floats, counts: Floats) -> Estimate:
    """Mean over seeds of a rate, with a 90 % interval for the spread of seeds and of test images.

    The hull of three: Student's interval over seeds of logit((successes + 1/2) / (count + 1)), Wilson's of
    all images pooled, and the mean itself. Where a count is missing: Student's interval of the rates
    themselves, cut to [0, 1]; a single seed then says nothing, and the interval is [0, 1].

    Args:
        rates: one a seed, in [0, 1]; NaN where there is none.
        counts: the number of test images behind each; NaN where it is not known.
    """
    counts, rates = counts[~np.isnan(rates)], rates[~np.isnan(rates)]
    if len(rates) == 0:
        return UNMEASURED
    value = float(rates.mean())
    if np.isnan(counts).any() or (counts <= 0).any():
        low, high = t_interval(rates, LEVEL)
        return Estimate(value, max(0.0, low), min(1.0, high))
    successes = rates * counts
    ends = [value, *wilson(successes.sum(), counts.sum())]
    if len(rates) > 1:
        ends += special.expit(t_interval(special.logit((successes + 0.5) / (counts + 1)), LEVEL)).tolist()
    return Estimate(value, min(ends), max(ends))
