"""Nulls of detectors: how often an ordinary image scores as high, beyond what a sample holds by its tail.

Above its quantile q_a the null is taken to fall off exponentially, at the rate that it has up to the quantile q_b:

    P(S > s) = (1 - a) exp(-(s - q_a) / beta),   beta = (q_b - q_a) / ln((1 - a) / (1 - b)).

Of clean images or drawn labels a = 0.9 and b = 0.99. Of the suspected set itself a = 0.7 and b = 0.85: what is planted
lies above, as long as it is less than 15 % of the images, and takes no part in saying what is normal. The tail that is
seen so low is shorter than that beyond (by a third at the median of clean sets), so beta is made half as long again.
"""

import math
from dataclasses import dataclass

import numpy as np

from raybd.auditing.features import Floats


@dataclass(frozen=True)
class Quantiles:
    """Between which quantiles a tail is seen, and by what its scale is lengthened beyond."""

    low: float
    high: float
    lengthened: float


CLEAN, SUSPECTED = Quantiles(0.9, 0.99, 1.0), Quantiles(0.7, 0.85, 1.5)


@dataclass(frozen=True)
class Null:
    """The fitted tail of a detector's scores of ordinary images."""

    sample: Floats  # (n,) sorted
    start: float  # q_a
    share: float  # 1 - a
    scale: float  # beta

    @classmethod
    def fit(cls, sample: Floats, quantiles: Quantiles) -> "Null":
        """The null of a `sample` (n,) of scores."""
        a, b = quantiles.low, quantiles.high
        low, high = np.quantile(sample, (a, b))
        scale = quantiles.lengthened * (high - low) / math.log((1 - a) / (1 - b))
        least = 1e-9 + 1e-3 * float(sample.std())  # of scores that are nearly all the same
        return cls(np.sort(sample), float(low), 1 - a, max(float(scale), least))

    def evidence(self, scores: Floats) -> Floats:
        """-log10 P(S > s) (N,) of `scores` (N,): 3 where one ordinary image in a thousand scores as high."""
        below = np.searchsorted(self.sample, scores, side="left") / len(self.sample)
        body = -np.log10(np.maximum(1 - below, self.share))
        tail = -math.log10(self.share) + (scores - self.start) / (self.scale * math.log(10))
        found: Floats = np.where(scores > self.start, tail, body)
        return found
