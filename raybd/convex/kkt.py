"""The optimality conditions of a soft-margin machine: exact duals from libsvm's, and how they answer a push.

Free support vectors (0 < dual < limit) keep sign * f = 1. With their signed duals a and the intercept b that is
M [a; b] = ..., M = [[K_SS, 1], [1^T, 0]]; where M is singular every solution is the same function, so one by least
squares will do.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lstsq

from raybd.convex.learner import NotUniqueError
from raybd.convex.task import Array, Mask

NEAR = 1e-6  # a dual (of its limit) or a margin this close to its bound may be on it


@dataclass(frozen=True, eq=False)
class State:
    """An optimum: signed duals (n,), intercept, and which points are free or short of their margin."""

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
        """(n,) duals strictly inside their bounds."""
        sizes = self.sign * self.duals
        return (sizes > 0) & (sizes < self.limits)

    @property
    def short(self) -> Mask:
        """(n,) margin below 1, so that the dual is at its limit, whatever that is."""
        return ~self.free & (self.margins < 1)


def respond(state: State, values: Array, total: float) -> Array:
    """(|S| + 1,) solution of M [a; b] = [values; total]. Raises NotUniqueError where no support vector is free."""
    free = state.free
    count = int(free.sum())
    if not count:
        raise NotUniqueError("no support vector is free (all duals at a bound), so the intercept is not unique")
    system = np.ones((count + 1, count + 1))
    system[:-1, :-1] = state.kernel[np.ix_(free, free)]
    system[-1, -1] = 0
    solution: Array = lstsq(system, np.append(values, total))[0]
    return solution


def sharpened(state: State) -> State:
    """The same optimum to double precision: libsvm keeps its kernel in single precision and stops early.

    Given which duals are free, the others at their bounds, the conditions are linear. Left as it was where none is
    free or the solution leaves its bounds, so that libsvm has not told which ones are.
    """
    free = state.free
    if not free.any():
        return state
    duals = np.where(free, 0, state.duals)
    exact = respond(state, (state.sign - state.kernel @ duals)[free], -float(duals.sum()))
    duals[free] = exact[:-1]
    better = replace(state, duals=duals, intercept=float(exact[-1]))
    return better if (better.free == free).all() else state


def direction_problem(state: State, rates: Array) -> str:
    """Why the optimum has no one-sided derivative as signed duals outside grow by `rates` (n,); "" if it has.

    The derivative supposes that nobody changes sides at once. A point that is on a bound of its dual and on its
    margin as well may: it must then move to the side where it is counted.
    """
    free, sizes = state.free, state.sign * state.duals
    pushed = state.kernel @ rates
    answer = respond(state, -pushed[free], -float(rates.sum()))
    moves = state.sign * (pushed + state.kernel[:, free] @ answer[:-1] + answer[-1])
    growth = np.zeros(len(rates))
    growth[free] = state.sign[free] * answer[:-1]
    full = np.where(state.limits > 0, sizes >= state.limits, rates != 0)
    tied = ~free & (np.abs(state.margins - 1) < NEAR)
    inwards, outwards = _moving(moves, NEAR * np.abs(pushed).max())
    leaves = tied & np.where(full, outwards, inwards)
    low, high = sizes < NEAR * state.limits, sizes > (1 - NEAR) * state.limits
    shrinks, grows = _moving(growth, NEAR * np.abs(rates).max())
    leaves |= free & ((low & shrinks) | (high & grows))
    count = int(leaves.sum())
    return f"{count} point(s) on the margin would change sides at once, so the derivative is not unique" * (count > 0)


def _moving(rates: Array, slack: float) -> tuple[Mask, Mask]:
    return rates < -slack, rates > slack
