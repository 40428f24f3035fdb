"""The published slope of arXiv 2106.07214, which is not the derivative of the curve.

Kept to compare with their result files and for nothing else. Against `slope_exact`: the Hessian is of the poison, not
of the clean points; the regulariser's gradient is added to every poison gradient; C (and 1 / ln 2) sits in the test
gradient too; poison points are averaged, not summed; a machine is reduced to its free support vectors.
"""

from dataclasses import dataclass

import numpy as np

from raybd.convex.learner import Learner, NotUniqueError
from raybd.convex.published import PublishedModel, published_model
from raybd.convex.slope import theta
from raybd.convex.task import Array, BinaryTask
from raybd.errors import InputError

DAMPING = 1e-9
SINGULAR = np.log(1e-6)  # |det| below which the authors take a pseudo-inverse


@dataclass(frozen=True)
class LegacySlope:
    """The influence columns of the authors' CSV files; nan where they hold 9999 (no free support vector)."""

    mean: float  # avg_I_poison_train_triggered_test_clf: what stands for the derivative
    mean_absolute: float  # avg_abs_I...
    total_absolute: float  # norm_I...
    mean_loss: float  # of the clean model on triggered test points: hinge, squared, or log-loss in bits
    min_loss: float
    max_loss: float

    @property
    def theta(self) -> float:
        """The slope as they plot it."""
        return theta(self.mean)


@dataclass(frozen=True)
class LegacyAccuracies:
    """The accuracy columns of the authors' CSV files."""

    clean_model: float  # clf_acc: trained without any poison, on clean test points
    clean: float  # clfp_acc: trained with the poison, on clean test points
    attack_success: float  # clfp_acc_on_backdoor
    training: float  # clfp_acc_tr: on the poisoned training set


def slope_legacy(learner: Learner, task: BinaryTask) -> LegacySlope:
    """The published number, from scikit-learn's solvers at the authors' settings.

    Raises InputError where the task has no poison, of which a mean could be taken.
    """
    if not task.poison_count:
        raise InputError("slope_legacy is a mean over poison points, and the task has none")
    model = fit_published(learner, task, 0.0)
    try:
        influence = _influence(model, task)
    except NotUniqueError:
        return LegacySlope(*[float("nan")] * 6)
    losses, sizes = model.loss(task.triggered_sign * model.decision_function(task.triggered_x)), np.abs(influence)
    means = float(influence.mean()), float(sizes.mean()), float(sizes.sum())
    return LegacySlope(*means, float(losses.mean()), float(losses.min()), float(losses.max()))


def legacy_accuracies(learner: Learner, clean: BinaryTask, task: BinaryTask) -> LegacyAccuracies:
    """The published accuracies of `task`; `clean` is the same task at poison rate 0."""
    before, after = fit_published(learner, clean, 1.0), fit_published(learner, task, 1.0)
    return LegacyAccuracies(
        clean_model=_accuracy(before, clean.test_x, clean.test_sign),
        clean=_accuracy(after, task.test_x, task.test_sign),
        attack_success=_accuracy(after, task.triggered_x, task.triggered_sign),
        training=_accuracy(after, task.train_x, task.train_sign),
    )


def fit_published(learner: Learner, task: BinaryTask, beta: float) -> PublishedModel:
    """The model of the published results that has the settings of `learner`, trained with the poison at `beta`."""
    return task.kept(learner, ("published", beta), lambda: _fit_anew(learner, task, beta))


def _fit_anew(learner: Learner, task: BinaryTask, beta: float) -> PublishedModel:
    weights = task.weights(beta)
    seen = weights > 0
    return published_model(learner).fit(task.train_x[seen], task.train_sign[seen], weights[seen])


def _influence(model: PublishedModel, task: BinaryTask) -> Array:
    """(l, m) of every poison point on every triggered test point."""
    poison, sign = task.train_x[task.poisoned], task.train_sign[task.poisoned]
    hessian = model.hessian(poison)
    damped = hessian + DAMPING * np.eye(len(hessian))
    singular = np.linalg.slogdet(damped)[1] < SINGULAR
    inverse = np.linalg.pinv(damped) if singular else np.linalg.inv(damped)
    pushed = model.gradients(poison, sign) + model.penalty()
    return -model.gradients(task.triggered_x, task.triggered_sign) @ inverse @ pushed.T


def _accuracy(model: PublishedModel, x: Array, sign: Array) -> float:
    return float(((model.decision_function(x) > 0) == (sign > 0)).mean())
