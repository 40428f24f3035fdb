"""The convex hull of points, by linear programs, which bear points that lie on a line or in a plane."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-7  # how far outside its hull, in widths of an axis, a point still counts as inside (the solver's own)


def in_hull(points: Floats, query: Floats) -> bool:
    """Whether `query` (d,) lies in the convex hull of `points` (n, d), its edge included.

    The axes should be scaled. A point is inside if it is a weighted mean of `points`.
    """
    ends = hull_interval(points, query, 0)
    return ends is not None and ends[0] - TOLERANCE <= query[0] <= ends[1] + TOLERANCE


def hull_interval(points: Floats, query: Floats, axis: int) -> tuple[float, float] | None:
    """Where the line through `query` (d,) along `axis` enters and leaves the hull of `points` (n, d); None if never."""
    from scipy.optimize import linprog  # here, because most questions to a map need none

    others = np.delete(points, axis, axis=1).T
    fixed = np.delete(query, axis)
    left, right = np.vstack([others, -others]), np.concatenate([fixed + TOLERANCE, TOLERANCE - fixed])
    ones = np.ones((1, len(points)))
    solved = [linprog(sign * points[:, axis], left, right, ones, [1.0], method="highs") for sign in (1, -1)]
    ends = [float(one.fun) for one in solved if one.fun is not None]
    return (ends[0], -ends[1]) if len(ends) == 2 else None
