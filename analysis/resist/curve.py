"""The excess of attack success over poison rates, seed by seed, and where its mean crosses the limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import stdtrit

from analysis.resist.trainings import Trainings
from analysis.statistics import TAIL
from raybd.scripts.config import Knobs
from raybd.utils.metric_names import ATTACK_SUCCESS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The excess over the clean twin of the same seed (over all twins' mean where it has none).

    Args:
        counts: (c,) poisoned images, in order.
        excess: (c, s) of each seed, NaN where it has not finished.
        limit: above which a backdoor takes hold.
    """

    counts: Sequence[int]
    excess: Floats
    limit: float

    @classmethod
    def of(cls, trainings: Trainings, attack: str, knobs: Knobs) -> "Curve":
        """The curve of an attack at a setting of the knobs."""
        counts = sorted({a.count for a in trainings.known if a.count and (a.attack, a.knobs) == (attack, knobs)})
        rates = {
            count: {seed: one.metrics[ATTACK_SUCCESS] for seed, one in trainings.finished(attack, count, knobs).items()}
            for count in (0, *counts)
        }
        seeds, twins = sorted({seed for count in counts for seed in rates[count]}), rates[0]
        mean = sum(twins.values()) / len(twins) if twins else 0.0
        rows = [[rates[c].get(seed, math.nan) - twins.get(seed, mean) for seed in seeds] for c in counts if rates[c]]
        excess = np.array(rows, dtype=float).reshape(len(rows), len(seeds))
        return cls([count for count in counts if rates[count]], excess, trainings.limit)

    def bracket(self) -> tuple[int, int] | None:
        """The two neighbouring counts between which the mean crosses the limit; None where it does not."""
        after = _first_over(self._rising(), self.limit)
        return (self.counts[after - 1], self.counts[after]) if after else None

    def edge(self) -> tuple[float, float, float] | None:
        """The count at which the mean crosses the limit and its 90 % interval; None where it does not cross.

        The crossing is that of the isotonic regression of the means, weighted by their seeds, linear in the logarithm
        of the count. Its error is the jackknife's over seeds (Efron & Stein, Annals of Statistics 9 (1981) 586), with
        Student's t; the interval holds the two neighbouring counts, for what lies between them is a straight line.
        An end is open, 0 or infinite, where the curve without some seed does not cross, or is beyond what was tried.
        """
        bracket, at = self.bracket(), self._crossing()
        if bracket is None:
            return None
        low, high = self._interval(at)
        low, high = min(low, bracket[0]), max(high, bracket[1])
        return math.exp(at), low if low >= self.counts[0] else 0.0, high if high <= self.counts[-1] else math.inf

    def _interval(self, at: float) -> tuple[float, float]:
        number = self.excess.shape[1]
        if number < 2:
            return 0.0, math.inf
        left = np.array([self._without(seed)._crossing() for seed in range(number)])
        if not np.isfinite(left).all():
            return (0.0 if (left == -math.inf).any() else math.exp(at)), math.inf if (
                left == math.inf
            ).any() else math.exp(at)
        error = math.sqrt((number - 1) / number * float(((left - left.mean()) ** 2).sum()))
        half = float(stdtrit(number - 1, 1 - TAIL)) * error
        return math.exp(at - half), math.exp(at + half)

    def _without(self, seed: int) -> "Curve":
        excess = np.delete(self.excess, seed, axis=1)
        kept = np.flatnonzero((~np.isnan(excess)).any(axis=1)).tolist()
        return Curve([self.counts[row] for row in kept], excess[kept], self.limit)

    def _rising(self) -> Floats:
        """(c,) the isotonic regression of the means."""
        if not self.counts:
            return np.zeros(0)
        weights = (~np.isnan(self.excess)).sum(1).astype(float)
        rising: Floats = isotonic_regression(np.nanmean(self.excess, axis=1), weights=weights).x
        return rising

    def _crossing(self) -> float:
        """The logarithm of the count at the crossing; infinite where there is none, negative if all is above."""
        rising = self._rising()
        after = _first_over(rising, self.limit)
        if not after:
            return math.inf if after is None else -math.inf
        share = (self.limit - rising[after - 1]) / (rising[after] - rising[after - 1])
        first, last = math.log(self.counts[after - 1]), math.log(self.counts[after])
        return float(first + share * (last - first))


def _first_over(rising: Floats, limit: float) -> int | None:
    over = np.flatnonzero(rising > limit)
    return int(over[0]) if len(over) else None
