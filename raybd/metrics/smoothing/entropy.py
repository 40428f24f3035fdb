"""Estimators of the entropy of votes: counts (..., K) of K classes -> (...), in nats.

The plug-in is monotone and ranks points; it is low by (K' - 1) / 2n (K' classes with a chance), so means are
Grassberger's. A unanimous vote is censored, not zero.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, betaincinv, digamma, entr

WORST_CLASS = 0.1408  # max of x E1(2x)
Counts = NDArray[np.integer[Any]]
Values = NDArray[np.float64]


def plug_in_entropy(counts: Counts) -> Values:
    """H of the shares n_c / n: -sum_c (n_c / n) ln(n_c / n); exactly 0 where all agree."""
    shares: Values = counts / counts.sum(-1, keepdims=True)
    return shares_entropy(shares)


def shares_entropy(p: Values) -> Values:
    """-sum_c p_c ln p_c of shares (..., K), 0 ln 0 = 0; of the mean softmax it is the soft variant of W."""
    return np.asarray(entr(p).sum(-1) + 0.0)  # never -0.0


def grassberger(counts: Counts) -> Values:
    """ln n - (1/n) sum_c n_c G(n_c), G(m) = psi(m) + (-1)^m / 2 [psi((m+1)/2) - psi(m/2)] (arXiv physics/0307138).

    Nearly unbiased, so it is for means; it jumps with the parity of n: draw an even number, and never rank by it.
    """
    m = np.maximum(counts, 1)
    sign = np.where(m % 2 == 0, 0.5, -0.5)
    g = digamma(m) + sign * (digamma((m + 1) / 2) - digamma(m / 2))
    n = counts.sum(-1)
    return np.asarray(np.log(n) - (counts * g).sum(-1) / n)


def bias_bound(draws: int, classes: int) -> float:
    """The most by which the mean of `grassberger` over `draws` votes for `classes` classes can be low, in nats.

    A class of chance p makes it low by p E1(2 n p) (arXiv physics/0307138, of Poisson counts; of n votes it is less),
    which is at most 0.1408 / n, at p = 0.217 / n; one class holds the rest. Plug-in: (K' - 1) / 2n and more.
    """
    return WORST_CLASS * (classes - 1) / draws


def gini(counts: Counts) -> Values:
    """1 - sum_c n_c (n_c - 1) / (n (n - 1)): unbiased for 1 - sum_c p_c^2; needs n >= 2."""
    n = counts.sum(-1)
    return np.asarray(1 - (counts * (counts - 1)).sum(-1) / (n * (n - 1)))


def agreement(counts: Counts, predicted: NDArray[np.int64]) -> Values:
    """n_{k(x)} / n, the share of votes for the class (...) that the network gives the point without noise."""
    here = np.take_along_axis(counts, predicted[..., None], -1)[..., 0]
    return np.asarray(here / counts.sum(-1))


def normalised(entropy: Values, classes: int) -> Values:
    """`entropy` over ln C: 0 where all agree, 1 where all classes are alike."""
    return np.asarray(entropy / np.log(classes))


def unanimous(counts: Counts) -> NDArray[np.bool_]:
    """Mask (...) of the censored points: every vote went to one class."""
    return np.asarray(counts.max(-1) == counts.sum(-1))


def clopper_pearson(k: Counts, n: Counts | int, alpha: float) -> tuple[Values, Values]:
    """One-sided bounds for the chance behind `k` of `n`: each is passed with probability at most `alpha`."""
    pairs = np.stack(np.broadcast_arrays(k, n), -1)
    distinct, which = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)  # few, and a quantile is slow
    k, n = distinct.T
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)
    high = np.where(k < n, betainccinv(k + 1, np.maximum(n - k, 1), alpha), 1.0)
    return low[which].reshape(pairs.shape[:-1]), high[which].reshape(pairs.shape[:-1])
