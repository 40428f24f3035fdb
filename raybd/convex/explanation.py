"""Why a model decides as it does on one triggered point: which features, and which training points."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raybd.convex.learner import Learner
from raybd.convex.task import Array, Task
from raybd.errors import InputError


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of the triggered test point at `index`, for the models without and with the poison."""

    index: int
    decisions: Array  # (2,) decision values: clean model, poisoned model
    gradients: Array  # (2, d) input gradients of the decision for the class that each model predicts
    influential: NDArray[np.intp]  # (count,) training points, those of the largest |influence| first
    influence: Array  # (count,) derivative of the point's loss in the poisoned model by their weights


def explain(learner: Learner, task: Task, index: int, count: int = 7) -> Explanation:
    """Features by the decision's gradient, training points by their exact influence in the poisoned model.

    arXiv 2106.07214 shows the same pair of pictures, but takes influence from the approximation of its code. Raises
    InputError where there is no such triggered point, NotUniqueError where the influence is not unique.
    """
    if not 0 <= index < len(task.triggered_x):
        raise InputError(f"no triggered point {index} (allowed: 0 to {len(task.triggered_x) - 1})")
    x, sign = task.triggered_x[index], task.triggered_sign[index : index + 1]
    path = learner.path(task, [0.0, 1.0])
    decisions = path.decide(x[None])[:, 0]
    influence = learner.influence(task, 1.0, x[None], sign)
    first = np.argsort(-np.abs(influence), kind="stable")[:count]
    gradients = path.gradient(x) * np.where(decisions > 0, 1.0, -1.0)[:, None]
    return Explanation(index, decisions, gradients, first, influence[first])
