"""Estimates of mutual information, and the bounds that they are made of. All in nats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.metrics.base import measured_only

SATURATED = 0.95  # share of the ceiling above which a lower bound says "at least", not "about"


@dataclass(frozen=True)
class MIEstimate:
    """An estimate of mutual information between two bounds, with its standard error and its ceiling."""

    value: float  # the one to draw: a bound, or what lies between two; nan where these are too far apart
    lower: float  # in expectation not above the truth
    upper: float  # in expectation not below the truth
    error: float  # of `value`: standard error of a bound, of a middle half of what bounds and errors span
    samples: int  # N, among which the right one is to be found
    ceiling: float  # of N images, log N: so much `lower` can tell of any, however many draws there are of each
    lower_error: float = math.nan  # standard errors of the bounds, where there are two
    upper_error: float = math.nan
    fresh: bool = True  # on draws that nothing was fitted to; False: in-sample
    noise_ratio: float = math.nan  # deviation of the noise in T / root mean square of T
    steps: int = 0  # of a critic's training
    permuted: float = math.nan  # of information about labels: the same with the labels in random order

    @property
    def saturated(self) -> bool:
        """Whether the lower bound is so near its ceiling that it no longer follows the truth."""
        return self.lower > SATURATED * self.ceiling


def infonce(scores: Tensor) -> Tensor:
    """InfoNCE summands over all pairs, one of each query: f_ii - log mean_j exp f_ij, shape (..., N).

    `scores` (..., N, M) holds f of query i and candidate j, the right one being j = i; M >= N, further columns are
    more candidates of the same law. Its mean is a lower bound for any fixed critic f (van den Oord et al.,
    arXiv:1807.03748; Poole et al., arXiv:1905.06922, eq. 10), at most log M. With the true log p(query | candidate)
    it is the tightest such, low by about the excess of the truth over log M.
    """
    candidates = scores.shape[-1]
    return scores.diagonal(dim1=-2, dim2=-1) - scores.logsumexp(-1) + math.log(candidates)


def leave_one_out(scores: Tensor, per_source: int = 1) -> Tensor:
    """Leave-one-out upper bound summands, one of each query, shape (..., N).

    f_ii - log mean_{j not of i's source} exp f_ij with f = log p(query i | candidate j) (Poole et al.,
    arXiv:1905.06922, eq. 13). `scores` is (..., N, N), `per_source` neighbours in a row are draws of one source (an
    image): they are left out together, since the bound wants candidates that are independent of the query.
    An upper bound only with the true conditional; its spread grows with the truth.
    """
    n = scores.shape[-1]
    source = torch.arange(n, device=scores.device) // per_source
    others = scores.masked_fill(source[:, None] == source, -torch.inf)
    return scores.diagonal(dim1=-2, dim2=-1) - others.logsumexp(-1) + math.log(n - per_source)


def standard_error(summands: Tensor) -> Tensor:
    """Standard error of the mean over the last axis: (..., N) -> (...)."""
    return summands.std(-1) / math.sqrt(summands.shape[-1])


PARTS = ("lower", "lower/error", "upper", "upper/error", "error", "ceiling", "saturated", "permuted")


def to_metrics(estimates: Mapping[str, MIEstimate], prefix: str, parts: Sequence[str] = PARTS) -> dict[str, float]:
    """The value of every estimate under its name, and `parts` of it below: prefix/name, prefix/name/lower, ...

    What an estimate does not have (nan) is left out.
    """
    found = {f"{prefix}/{name}": value.value for name, value in estimates.items()}
    for part in parts:
        field = part.replace("/", "_")
        found |= {f"{prefix}/{name}/{part}": float(getattr(value, field)) for name, value in estimates.items()}
    return measured_only(found)
