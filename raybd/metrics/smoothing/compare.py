"""One variant against another, point by point, and one number against another over trials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from raybd.metrics.smoothing.entropy import Counts, Values, grassberger, plug_in_entropy
from raybd.utils.statistics import auroc


@dataclass(frozen=True)
class EntropyGap:
    """W(x) - W(x') over N points, in nats; above 0: x' is the smoother."""

    mean: float  # of Grassberger's entropies
    se: float  # sd / sqrt(N): holds the noise of the votes too
    plug_in: float  # the mean of plug-in entropies, which understates a gap
    share_positive: float  # points with a gap above 0, by plug-in
    p_value: float  # Wilcoxon's signed ranks, one-sided: the gap is above 0
    auroc: float  # of the score -W for x' against x


def paired_gap(clean: Counts, other: Counts, first: tuple[Counts, Counts] | None = None) -> EntropyGap:
    """The gap between counts (N, K) of the same N points in two variants; needs N >= 2.

    `first` are the two after a number of draws that was fixed beforehand, where drawing stopped at unanimous points:
    the mean and its error rest on these, since a rule that looks at the votes makes their entropy low.
    """
    early = first or (clean, other)
    gaps = grassberger(early[0]) - grassberger(early[1])
    before, after = plug_in_entropy(clean), plug_in_entropy(other)
    return EntropyGap(
        mean=float(gaps.mean()),
        se=float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
        plug_in=float((before - after).mean()),
        share_positive=float((before > after).mean()),
        p_value=_signed_ranks(before - after),
        auroc=auroc(-before, -after),
    )


def _signed_ranks(gaps: Values) -> float:
    if not gaps.any():
        return 1.0  # nothing differs: the test has no ranks to sign
    from scipy.stats import wilcoxon

    return float(wilcoxon(gaps, alternative="greater").pvalue)


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho over trials, with a 95 % interval, and what is left of it when a third number is held fixed."""

    rho: float
    low: float
    high: float
    partial: float  # given the confounder's ranks; nan where they explain one of the two whole


def rank_correlation(x: Values, y: Values, confounder: Values) -> RankCorrelation:
    """Spearman's rho of `x` and `y` (N,), N >= 4, and its partial version given `confounder` (N,).

    Interval: Fisher's z with the standard error sqrt((1 + rho^2 / 2) / (N - 3)) (Bonett and Wright 2000).
    """
    from scipy.stats import spearmanr

    rho = float(spearmanr(x, y).statistic)
    half = float(ndtri(0.975)) * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh([z - half, z + half])
    return RankCorrelation(rho, float(low), float(high), _partial(x, y, confounder))


def _partial(x: Values, y: Values, confounder: Values) -> float:
    from scipy.stats import rankdata

    left = [_residual(rankdata(values), rankdata(confounder)) for values in (x, y)]
    spread = [float(np.linalg.norm(part)) for part in left]
    return float(left[0] @ left[1] / (spread[0] * spread[1])) if min(spread) > 1e-9 else float("nan")


def _residual(values: NDArray[np.float64], on: NDArray[np.float64]) -> Values:
    on, values = on - on.mean(), values - values.mean()
    scale = on @ on
    return np.asarray(values - (on @ values / scale) * on if scale else values)
