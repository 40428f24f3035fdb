"""KKT conditions of a soft-margin SVM: exact duals from libsvm's, and their derivatives.

Free support vectors (0 < dual < limit) keep sign * f = 1. With their signed duals a and the intercept b that is
M [a; b] = ..., M = [[K_SS, 1], [1^T, 0]]; where M is singular every solution is the same function, so one by least
squares will do.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lstsq

from raybd.convex.learner import NotUniqueError
from raybd.convex.task import Array, Mask

TOLERANCE = 1e-6  # a dual (of its limit) or a margin this close to its bound may be on it


@dataclass(frozen=True, eq=False)
class SVMSolution:
    """A solution of the dual problem: signed duals (n,), intercept, free and bounded support vectors."""

    kernel: Array  # (n, n)
    sign: Array  # (n,)
    limits: Array  # (n,) upper bound of each dual, C * weight
    duals: Array
    intercept: float

    @property
    def margins(self) -> Array:
        """(n,) sign * f."""
        return self.sign * (self.kernel @ self.duals + self.intercept)

    @property
    def free(self) -> Mask:
        """(n,) free support vectors: duals strictly inside their bounds."""
        sizes = self.sign * self.duals
        return (sizes > 0) & (sizes < self.limits)

    @property
    def bounded(self) -> Mask:
        """(n,) bounded support vectors: margin below 1, so that the dual is at its limit, whatever that is."""
        return ~self.free & (self.margins < 1)

    @property
    def violation(self) -> float:
        """How far the optimality conditions are from holding: of margins against 1, over points with a limit."""
        gaps, sizes = 1 - self.margins, self.sign * self.duals
        counted = self.limits > 0
        short = np.where(counted & (sizes < self.limits), gaps, 0.0)  # these could still grow
        over = np.where(counted & (sizes > 0), -gaps, 0.0)  # ... and these shrink
        return float(max(short.max(initial=0.0), over.max(initial=0.0)))


def solve_kkt(solution: SVMSolution, values: Array, total: float) -> Array:
    """(|S| + 1,) solution of M [a; b] = [values; total]. Raises NotUniqueError where no support vector is free."""
    free = solution.free
    count = int(free.sum())
    if not count:
        raise NotUniqueError("no support vector is free (all duals at a bound), so the intercept is not unique")
    system = np.ones((count + 1, count + 1))
    system[:-1, :-1] = solution.kernel[np.ix_(free, free)]
    system[-1, -1] = 0
    answer: Array = lstsq(system, np.append(values, total))[0]
    return answer


def refined(solution: SVMSolution) -> SVMSolution:
    """The same solution to double precision: libsvm keeps its kernel in single precision and stops early.

    Given which duals are free, the others at their bounds, the conditions are linear. Left as it was where none is
    free or the solution leaves its bounds, so that libsvm has not told which ones are.
    """
    free = solution.free
    if not free.any():
        return solution
    duals = np.where(free, 0, solution.duals)
    exact = solve_kkt(solution, (solution.sign - solution.kernel @ duals)[free], -float(duals.sum()))
    duals[free] = exact[:-1]
    better = replace(solution, duals=duals, intercept=float(exact[-1]))
    return better if (better.free == free).all() else solution


def non_unique_reason(solution: SVMSolution, rates: Array) -> str:
    """Why the solution has no one-sided derivative as signed duals outside grow by `rates` (n,); "" if it has.

    The derivative supposes that nobody changes sides at once. A point that is on a bound of its dual and on its
    margin as well may: it must then move to the side where it is counted.
    """
    free, sizes = solution.free, solution.sign * solution.duals
    pushed = solution.kernel @ rates
    answer = solve_kkt(solution, -pushed[free], -float(rates.sum()))
    moves = solution.sign * (pushed + solution.kernel[:, free] @ answer[:-1] + answer[-1])
    growth = np.zeros(len(rates))
    growth[free] = solution.sign[free] * answer[:-1]
    full = np.where(solution.limits > 0, sizes >= solution.limits, rates != 0)
    tied = ~free & (np.abs(solution.margins - 1) < TOLERANCE)
    inwards, outwards = _moving(moves, TOLERANCE * np.abs(pushed).max())
    leaves = tied & np.where(full, outwards, inwards)
    low, high = sizes < TOLERANCE * solution.limits, sizes > (1 - TOLERANCE) * solution.limits
    shrinks, grows = _moving(growth, TOLERANCE * np.abs(rates).max())
    leaves |= free & ((low & shrinks) | (high & grows))
    count = int(leaves.sum())
    return f"{count} point(s) on the margin would change sides at once, so the derivative is not unique" * (count > 0)


def _moving(rates: Array, slack: float) -> tuple[Mask, Mask]:
    return rates < -slack, rates > slack
