"""Summaries of a curve: where it crosses a level, the area under it, its slope. NumPy only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Sequence[float] | Floats


def crossing(positions: Values, shares: Values, level: float = 0.5, log: bool = False) -> float:
    """The least position at which the line through `shares` at `positions` (ascending) is at `level` or above.

    Between two positions the line is straight in the position, or in its logarithm: then what lies between 0, which
    has no logarithm, and the next position counts as that one. inf where the curve stays below. Unknown shares (nan)
    are left out.
    """
    x, y = _known(positions, shares)
    above = np.flatnonzero(y >= level)
    if len(above) == 0:
        return float("inf")
    i = int(above[0])
    if i == 0 or (log and x[i - 1] <= 0):
        return float(x[i])
    ends = np.log10(x[i - 1 : i + 1]) if log else x[i - 1 : i + 1]
    at = ends[0] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (ends[1] - ends[0])
    return float(10**at if log else at)


def log_area(positions: Values, shares: Values) -> float:
    """Mean share over the logarithm of the positions above 0, by trapezoids; nan where fewer than two are known."""
    x, y = _known(positions, shares)
    x, y = np.log10(x[x > 0]), y[x > 0]
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float("nan")


def log_slope(derivative: float) -> float:
    """log10 of how fast a loss falls, for `derivative` below 0; nan where it does not fall."""
    return float(np.log10(-derivative)) if derivative < 0 else float("nan")


def _known(positions: Values, shares: Values) -> tuple[Floats, Floats]:
    x, y = np.asarray(positions, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if x.shape != y.shape or (np.diff(x) <= 0).any():
        raise ValueError(f"a curve needs ascending positions with one share each, got {x.tolist()} and {y.tolist()}")
    return x[~np.isnan(y)], y[~np.isnan(y)]
