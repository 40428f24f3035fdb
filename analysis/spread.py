"""Spread between seeds: the variance of every cell, moderated by what the other cells tell of it.

Few seeds tell little of their own variance. Over cells it is taken to follow a scaled inverse chi-squared distribution,
which is fitted to the variances of all of them (Smyth, Statistical Applications in Genetics and Molecular Biology 3
(2004) article 3, sections 3 and 6.2); where cells differ little, each is lent much.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, fdtri, polygamma

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.intp]
SURE = 1e9  # degrees of freedom of a variance that is stated, not measured
SMALL = 1e-5
FAR = 0.01  # a variance that the prior would exceed this rarely is not moderated


@dataclass(frozen=True)
class SpreadPrior:
    """The distribution of variances over cells, as an observation of `variance` with `freedom` degrees of freedom."""

    variance: float = np.nan  # NaN: nothing is known
    freedom: float = 0.0  # infinite: all cells have the same variance
    total: float = 0.0  # degrees of freedom of the cells it was fitted to: no cell can be lent more

    def moderate(self, variance: Floats, freedom: Floats) -> tuple[Floats, Floats]:
        """Variances (c,) of cells and their degrees of freedom, after lending.

        (d0 s0^2 + d s^2) / (d0 + d), with d0 + d degrees of freedom, at most those of all cells together; a variance
        far above s0^2 (the upper 1 % of F(d, d0)) stays as it is. Without any seed but one (d = 0) it is s0^2.

        Args:
            variance: (c,) of each cell's own seeds; whatever it is where `freedom` is 0.
            freedom: (c,) seeds less one.
        """
        own = np.where(freedom > 0, variance, 0.0)
        if np.isnan(self.variance):
            return np.where(freedom > 0, variance, np.nan), freedom
        lent = min(self.freedom, 1e9)
        moderated = (lent * self.variance + freedom * own) / (lent + freedom)
        limit = fdtri(np.maximum(freedom, 1), min(lent, self.total), 1 - FAR) * self.variance
        far = (freedom > 0) & (own > limit)
        return np.where(far, own, moderated), np.where(far, freedom, np.minimum(lent + freedom, self.total))


def fit_spread(variance: Floats, freedom: Floats) -> SpreadPrior:
    """The prior of variances (c,) that have `freedom` (c,) degrees of freedom; of fewer than two cells none.

    By the moments of log s^2: mean log s0^2 + psi(d/2) - log(d/2) - psi(d0/2) + log(d0/2), variance psi'(d/2) +
    psi'(d0/2). Cells without any spread (rates at 0 or 1) say nothing of that of the others and are left out.
    """
    used = (freedom > 0) & (variance > 0)
    s2, d = variance[used], freedom[used]
    if len(s2) < 2:
        return SpreadPrior()
    s2 = np.maximum(s2, SMALL * np.median(s2))  # seeds that agree by chance must not rule the logarithms
    level = np.log(s2) - digamma(d / 2) + np.log(d / 2)
    excess = float(level.var(ddof=1) - polygamma(1, d / 2).mean())
    total = float(d.sum())
    if excess <= 0:
        return SpreadPrior(float(d @ s2 / total), np.inf, total)
    half = _inverse_trigamma(excess)
    return SpreadPrior(float(np.exp(level.mean() + digamma(half) - np.log(half))), 2 * half, total)


def _inverse_trigamma(value: float) -> float:
    """The x > 0 with psi'(x) = `value`, by Newton's method on 1 / psi' (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            break
    return x


@dataclass(frozen=True)
class Spread:
    """The variance of one seed in each of c cells, and its degrees of freedom; NaN where nothing tells it."""

    variance: Floats
    freedom: Floats


@dataclass(frozen=True)
class Lending:
    """Which of c cells tell of the spread of which: those of one group (source and data set) lend to each other."""

    group: Integers  # (c,)
    lends: Flags  # (c,)

    def among(self, cells: Flags) -> "Lending":
        """The same, with `cells` (c,) and the others apart."""
        return replace(self, group=2 * self.group + cells)

    def priors(self, variance: Floats, freedom: Floats, scale: Floats) -> dict[int, SpreadPrior]:
        """The prior of each group, for variances in units of `scale` (c,)."""
        chosen = {int(g): self.lends & (self.group == g) for g in np.unique(self.group)}
        return {g: fit_spread(variance[own] / scale[own], freedom[own]) for g, own in chosen.items()}

    def moderated(self, variance: Floats, freedom: Floats, scale: Floats, stated: Floats) -> Spread:
        """The spread of cells, each lent to by the others of its group, or as `stated` where a cell has one seed.

        Args:
            variance: (c,) of the seeds of each cell.
            freedom: (c,) seeds less one.
            scale: (c,) in what proportion variances are taken to stand to each other.
            stated: (c,) variance of a seed where a cell has one; NaN: what the other cells lend.
        """
        lent = moderate_all(self.priors(variance, freedom, scale), self.group, variance / scale, freedom)
        told = (freedom == 0) & ~np.isnan(stated)
        return Spread(np.where(told, stated, lent.variance * scale), np.where(told, SURE, lent.freedom))


def moderate_all(priors: dict[int, SpreadPrior], group: Integers, variance: Floats, freedom: Floats) -> Spread:
    """Variances (n,) moderated by the prior of the group of each."""
    result, degrees = np.full(len(group), np.nan), np.zeros(len(group))
    for number, prior in priors.items():
        own = group == number
        result[own], degrees[own] = prior.moderate(variance[own], freedom[own])
    return Spread(result, degrees)
