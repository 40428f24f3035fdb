"""The published slope once more, a pair of points at a time as its specification writes it, on digits."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel
from sklearn.svm import SVC

from raybd.convex import RBFSVM, BinaryTask, Learner, LinearSVM, Logistic, Ridge
from raybd.convex.legacy import slope_legacy
from tests.test_convex_digits import digits_task

Point = Callable[[np.ndarray, float], np.ndarray]  # x, sign -> gradient
LN2 = np.log(2)


def pairs(task: BinaryTask, at_test: Point, at_poison: Point, hessian: np.ndarray) -> np.ndarray:
    """I of every triggered point and every poison point."""
    inverse = np.linalg.inv(hessian + 1e-9 * np.eye(len(hessian)))
    tested = zip(task.triggered_x, task.triggered_sign, strict=True)
    poison = list(zip(task.train_x[task.poisoned], task.train_sign[task.poisoned], strict=True))
    pushed = [inverse @ at_poison(z, e) for z, e in poison]
    return np.array([[-at_test(x, e) @ p for p in pushed] for x, e in tested])


def logistic(task: BinaryTask, c: float) -> tuple[np.ndarray, np.ndarray]:
    clean = ~task.poisoned
    model = LogisticRegression(C=c, solver="liblinear").fit(task.train_x[clean], task.train_sign[clean])
    w, b = model.coef_[0], model.intercept_[0]

    def at_test(x: np.ndarray, e: float) -> np.ndarray:
        z = -e * (w @ x + b)
        share = 1.0 if z >= 10 else 1 / (1 + np.exp(-z))
        return c * (-e * share / LN2) * np.append(x, 1)

    hessian = np.diag([1.0] * 64 + [0.0])
    for x in task.train_x[task.poisoned]:
        share = 1 / (1 + np.exp(-(w @ x + b)))
        hessian += c * share * (1 - share) * np.outer(np.append(x, 1), np.append(x, 1))
    z = [-e * (w @ x + b) for x, e in zip(task.triggered_x, task.triggered_sign, strict=True)]
    losses = [value / LN2 if value >= 10 else np.log2(1 + np.exp(value)) for value in z]
    return pairs(task, at_test, lambda x, e: at_test(x, e) + np.append(w, 0), hessian), np.array(losses)


def ridge(task: BinaryTask, c: float) -> tuple[np.ndarray, np.ndarray]:
    clean, alpha = ~task.poisoned, 1 / (2 * c)
    model = RidgeClassifier(alpha=alpha).fit(task.train_x[clean], task.train_sign[clean])
    w, b = model.coef_.ravel(), float(np.ravel(model.intercept_)[0])

    def at_test(x: np.ndarray, e: float) -> np.ndarray:
        return -2 * e * (1 - e * (w @ x + b)) * np.append(x, 1) / alpha

    hessian = 2 * alpha * np.diag([1.0] * 64 + [0.0])
    for x in task.train_x[task.poisoned]:
        hessian += 2 * np.outer(np.append(x, 1), np.append(x, 1))
    losses = [(1 - e * (w @ x + b)) ** 2 for x, e in zip(task.triggered_x, task.triggered_sign, strict=True)]
    return pairs(task, at_test, lambda x, e: at_test(x, e) + np.append(w, 0), hessian), np.array(losses)


def machine(task: BinaryTask, c: float, gamma: float | None) -> tuple[np.ndarray, np.ndarray]:
    clean = ~task.poisoned
    points = task.train_x[clean]

    def kernel(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.asarray(linear_kernel(x, z) if gamma is None else rbf_kernel(x, z, gamma=gamma))

    model = SVC(kernel="precomputed", C=c).fit(kernel(points, points), task.train_sign[clean])
    support, duals = points[model.support_], model.dual_coef_[0]
    free = (np.abs(duals) >= 1e-6) & (np.abs(duals) <= c - 1e-6)
    count = int(free.sum())
    hessian = np.block([[kernel(support[free], support[free]), np.ones((count, 1))], [np.ones((1, count)), 0]])

    def decision_function(x: np.ndarray) -> float:
        return float(kernel(x[None], support)[0] @ duals + model.intercept_[0])

    def at_test(x: np.ndarray, e: float) -> np.ndarray:
        return c * (-e if 1 - e * decision_function(x) >= 0 else 0) * np.append(kernel(x[None], support[free])[0], 1)

    weight = np.append(2 * kernel(support[free], support[free]) @ duals[free], 0)
    losses = [max(0, 1 - e * decision_function(x)) for x, e in zip(task.triggered_x, task.triggered_sign, strict=True)]
    return pairs(task, at_test, lambda x, e: at_test(x, e) + weight, hessian), np.array(losses)


def plain(learner: Learner, task: BinaryTask) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(learner, Logistic):
        return logistic(task, learner.C)
    if isinstance(learner, Ridge):
        return ridge(task, learner.C)
    return machine(task, learner.C, learner.gamma if isinstance(learner, RBFSVM) else None)


@pytest.mark.parametrize(
    "learner",
    [Logistic(C=0.1), Logistic(C=1000), Ridge(C=1), LinearSVM(C=0.1), LinearSVM(C=10), RBFSVM(C=10, gamma=0.02)],
    ids=str,
)
def test_published_slope_pair_by_pair(learner: Learner) -> None:
    task = digits_task()
    influence, losses = plain(learner, task)
    found = slope_legacy(learner, task)
    assert found.mean == pytest.approx(influence.mean(), rel=1e-6)
    assert found.mean_absolute == pytest.approx(np.abs(influence).mean(), rel=1e-6)
    assert found.total_absolute == pytest.approx(np.abs(influence).sum(), rel=1e-6)
    means = (losses.mean(), losses.min(), losses.max())
    assert (found.mean_loss, found.min_loss, found.max_loss) == pytest.approx(means, rel=1e-9)
    if learner == Logistic(C=1000):
        assert losses.max() > 10 / LN2  # some points are on the line
