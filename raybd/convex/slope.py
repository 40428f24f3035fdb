"""The backdoor learning slope: the derivative of the learning curve at beta = 0, exact and with its parts."""

from dataclasses import dataclass

import numpy as np

from raybd.convex.learner import Learner, NotUniqueError
from raybd.convex.task import Array, BinaryTask


@dataclass(frozen=True, eq=False)
class Slope:
    """dB/dbeta at beta = 0+, in units of loss: more negative is learned faster."""

    derivative: float  # nan where it is not unique
    contributions: Array  # (m,) share of each poison point, in their order; they sum to the derivative
    reason: str = ""  # why the derivative is nan

    @property
    def theta(self) -> float:
        """The paper's slope in [-1, 1]; it saturates, so the derivative is what to compare."""
        return theta(self.derivative)


def theta(derivative: float) -> float:
    """-(2 / pi) * arctan(dB/dbeta): 1 is learned at once, 0 ignored, below 0 the poison backfires."""
    return float(-2 / np.pi * np.arctan(derivative))


def slope_exact(learner: Learner, task: BinaryTask) -> Slope:
    """The derivative of B(beta) at 0 by implicit differentiation; for hinge losses one-sided, by the KKT system.

    dB/dbeta = -gbar^T H^-1 g_P, with gbar the mean gradient on triggered test points, H the Hessian of J on the clean
    training points and g_P = C * sum of gradients on the poison (arXiv 2106.07214 says which derivative; its code
    computes another, see `slope_legacy`). One solve with gbar gives every point's contribution.
    """
    try:
        contributions = learner.contributions(task)
    except NotUniqueError as error:
        return Slope(float("nan"), np.full(task.poison_count, np.nan), str(error))
    return Slope(float(contributions.sum()), contributions)
