"""Slopes against finite differences, solvers against one another and against SciPy and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from raybd.convex import RBFSVM, BinaryTask, Learner, LinearSVM, Logistic, Ridge, Slope, slope_exact, theta
from raybd.convex.legacy import slope_legacy
from raybd.convex.newton import conjugate_gradient, minimise
from raybd.convex.task import Array
from raybd.errors import InputError
from tests.test_convex_digits import ALL, digits_task

SPREAD = [type(learner)(**{**vars(learner), "C": c}) for learner in ALL for c in (0.01, 0.1, 1, 10)]


def secant(learner: Learner, task: BinaryTask, step: float) -> float:
    low, high = learner.curve(task, [0, step]).backdoor_loss
    return float(high - low) / step


@pytest.mark.filterwarnings("ignore:the slope of RBFSVM")  # at the smallest C two free support vectors hold it
@pytest.mark.parametrize("learner", SPREAD, ids=str)
def test_slope_is_the_derivative_of_the_curve(learner: Learner) -> None:
    task = digits_task()
    slope = slope_exact(learner, task).derivative
    if isinstance(learner, LinearSVM | RBFSVM):  # the path is linear until a point changes sides
        assert secant(learner, task, 1e-6 / abs(slope)) == pytest.approx(slope, rel=1e-7)
        return
    step = 3e-4 / abs(slope)
    half, whole = secant(learner, task, step / 2), secant(learner, task, step)
    assert whole == pytest.approx(slope, rel=1e-3)
    assert 2 * half - whole == pytest.approx(slope, rel=3e-6)  # Richardson: the error of the step itself is gone


@pytest.mark.parametrize("learner", ALL, ids=str)
def test_contributions_are_those_of_each_point_alone_and_sum_to_the_slope(learner: Learner) -> None:
    task = digits_task()
    slope = slope_exact(learner, task)
    assert slope.contributions.shape == (24,)
    assert slope.contributions.sum() == pytest.approx(slope.derivative, rel=1e-12)
    for j in (0, 7, 23):
        alone = only(task, np.flatnonzero(task.poisoned)[[j]])
        part = slope_exact(learner, alone).derivative
        assert part == pytest.approx(slope.contributions[j], rel=1e-9, abs=1e-12)


def only(task: BinaryTask, kept: np.ndarray) -> BinaryTask:
    """The task with the poison points at `kept` alone."""
    rows = ~task.poisoned
    rows[kept] = True
    return replace(task, train_x=task.train_x[rows], train_sign=task.train_sign[rows], poisoned=task.poisoned[rows])


@pytest.mark.parametrize("learner", ALL, ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_influence_is_the_derivative_by_one_point_s_weight(learner: Learner, beta: float) -> None:
    """A copy of a training point, as the only poison, at a small beta: its weight has grown by that beta."""
    task = digits_task()
    weighted = only(task, np.array([], dtype=int)) if beta == 0 else replace(task, poisoned=task.poisoned)
    x, sign = task.test_x[:7], task.test_sign[:7]
    influence = learner.influence(weighted, beta, x, sign)
    for j in (3, int(np.abs(influence).argmax())):
        step = 1e-5 / max(1, abs(influence[j]))
        low, high = (mean_loss(learner, weighted, beta, j, extra, x, sign) for extra in (0.0, step))
        assert (high - low) / step == pytest.approx(influence[j], rel=2e-3, abs=1e-6)


def mean_loss(learner: Learner, task: BinaryTask, beta: float, j: int, extra: float, x: Array, sign: Array) -> float:
    """Mean loss on `x` of a model trained with `beta` on the poison and `extra` on point j beside its weight."""
    weights = task.weights(beta)
    weights[j] += extra
    decisions = fitted(learner, task.train_x, task.train_sign, weights, x)
    return float(learner.loss(sign * decisions).mean())


def fitted(learner: Learner, points: Array, sign: Array, weights: Array, x: Array) -> Array:
    """Decisions of scikit-learn's or SciPy's solvers, at tight tolerances, for any weights: the reference."""
    points, sign, weights = points[weights > 0], sign[weights > 0], weights[weights > 0]
    if isinstance(learner, Ridge):
        model = SklearnRidge(alpha=1 / (2 * learner.C)).fit(points, sign, weights)
        return np.asarray(model.predict(x))
    if isinstance(learner, Logistic):
        rows = np.column_stack([points, np.ones(len(points))])
        phi = np.zeros(rows.shape[1])
        for _ in range(60):  # Newton, with the Hessian written out; undamped steps converge at these C
            share = 1 / (1 + np.exp(sign * (rows @ phi)))
            hessian = learner.C * rows.T @ ((weights * share * (1 - share))[:, None] * rows) + np.eye(len(phi))
            phi = phi - np.linalg.solve(hessian, phi - learner.C * rows.T @ (weights * sign * share))
        return np.asarray(x @ phi[:-1] + phi[-1])
    gamma = learner.gamma if isinstance(learner, RBFSVM) else None
    kernel = points @ points.T if gamma is None else rbf_kernel(points, gamma=gamma)
    cross = x @ points.T if gamma is None else rbf_kernel(x, points, gamma=gamma)
    machine = SVC(kernel="precomputed", C=learner.C, tol=1e-10).fit(kernel, sign, weights)
    decisions = cross[:, machine.support_] @ machine.dual_coef_[0] + machine.intercept_[0]
    return np.asarray(decisions)


@pytest.mark.parametrize("learner", ALL, ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_path_agrees_with_reference_solvers(learner: Learner, beta: float) -> None:
    task = digits_task()
    ours = learner.path(task, [beta]).decision_function(task.triggered_x)[0]
    other = fitted(learner, task.train_x, task.train_sign, task.weights(beta), task.triggered_x)
    assert ours == pytest.approx(other, abs=1e-5 if isinstance(learner, LinearSVM | RBFSVM) else 1e-10)


@pytest.mark.parametrize("c", [0.1, 10])
def test_logistic_is_liblinear_s_problem(c: float) -> None:
    task = digits_task()
    ours = Logistic(C=c).path(task, [1.0]).decision_function(task.test_x)[0]
    model = LogisticRegression(C=c, solver="liblinear", tol=1e-10, max_iter=10000).fit(task.train_x, task.train_sign)
    assert ours == pytest.approx(model.decision_function(task.test_x), abs=1e-5)


def test_conjugate_gradients_against_cholesky() -> None:
    task, learner = digits_task(), Logistic(C=10)
    objective = learner.objective(task, 0.0)
    size = task.train_rows.shape[1]
    phi = minimise(objective, np.zeros(size), 1e-9)
    product = objective.hessian(phi)
    hessian = np.column_stack([product(unit) for unit in np.eye(size)])
    target = np.random.default_rng(0).normal(size=size)
    exact = cho_solve(cho_factor(hessian), target)
    assert hessian == pytest.approx(hessian.T, abs=1e-12)
    assert np.linalg.norm(conjugate_gradient(product, target, 1e-13) - exact) < 1e-10 * np.linalg.norm(exact)
    rough = conjugate_gradient(product, target, 1e-2)
    assert np.linalg.norm(product(rough) - target) <= 1e-2 * np.linalg.norm(target)
    assert conjugate_gradient(product, np.zeros(size), 1e-3).tolist() == [0] * size
    one_step = conjugate_gradient(product, target, 1e-13, limit=1)
    assert one_step == pytest.approx((target @ target) / (target @ product(target)) * target)


def test_newton_says_when_it_does_not_arrive() -> None:
    task = digits_task()
    objective = Logistic(C=10).objective(task, 1.0)
    with pytest.raises(RuntimeError, match=r"gradient of norm .* after 100 steps"):
        minimise(objective, np.zeros(task.train_rows.shape[1]), 1e-30)


def test_slopes_by_name_differ() -> None:
    """The legacy number is a mean over pairs, C squared and all: no derivative of anything here."""
    for learner in ALL:
        exact, legacy = slope_exact(learner, digits_task()), slope_legacy(learner, digits_task())
        assert legacy.mean != pytest.approx(exact.derivative, rel=0.05)
        assert legacy.mean_absolute >= abs(legacy.mean)
        assert legacy.total_absolute == pytest.approx(legacy.mean_absolute * 24 * 120)
        assert legacy.min_loss <= legacy.mean_loss <= legacy.max_loss
        assert legacy.theta == theta(legacy.mean)
    with pytest.raises(InputError, match="the task has none"):
        slope_legacy(Ridge(), digits_task(rate=0))
    assert np.isnan(slope_legacy(LinearSVM(C=1e-3), digits_task(rate=0.2)).mean)


def test_theta() -> None:
    assert theta(0) == 0
    assert theta(-1) == pytest.approx(0.5)
    assert theta(float("-inf")) == pytest.approx(1)
    assert Slope(2.0, np.array([2.0])).theta == pytest.approx(-2 / np.pi * np.arctan(2))


@pytest.mark.parametrize("learner", ALL, ids=str)
def test_no_poison_no_slope(learner: Learner) -> None:
    slope = slope_exact(learner, digits_task(rate=0))
    assert (slope.derivative, slope.contributions.shape, slope.reason) == (0, (0,), "")


@pytest.mark.parametrize("kind", [Ridge, Logistic, LinearSVM])
def test_slope_grows_with_the_trigger_and_with_the_rate(kind: type[Learner]) -> None:
    small, large = (slope_exact(kind(C=0.1), digits_task(side)).derivative for side in (2, 3))
    assert large < 1.15 * small
    few, many = (slope_exact(kind(C=0.1), digits_task(rate=rate)).derivative for rate in (0.05, 0.1))
    assert 1.1 < many / few < 3


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_contributions_sum_to_the_slope_solved_the_other_way(c: float) -> None:
    """H^-1 g_P first, then the test points, as equations (5), (6) and (8) are written, with dense solvers."""
    task = digits_task()
    clean, poison, tested = (
        np.column_stack([x, np.ones(len(x))])
        for x in (task.train_x[~task.poisoned], task.train_x[task.poisoned], task.triggered_x)
    )
    sign = task.train_sign[task.poisoned]
    phi = Logistic(C=c).path(task, [0.0]).phis[0]
    share = 1 / (1 + np.exp(-clean @ phi))
    hessian = c * clean.T @ ((share * (1 - share))[:, None] * clean) + np.eye(65)
    pushed = c * poison.T @ (-sign / (1 + np.exp(sign * (poison @ phi))))
    at_test = -task.triggered_sign / (1 + np.exp(task.triggered_sign * (tested @ phi))) @ tested / len(tested)
    slope = -at_test @ np.linalg.solve(hessian, pushed)
    assert Logistic(C=c).contributions(task).sum() == pytest.approx(slope, rel=1e-9)  # phi itself is good to 1e-9
    phi = Ridge(C=c).path(task, [0.0]).linear.phis[0]
    hessian = 2 * c * clean.T @ clean + np.diag([1.0] * 64 + [0.0])
    at_test = 2 * (tested @ phi - task.triggered_sign) @ tested / len(tested)
    slope = -at_test @ np.linalg.solve(hessian, 2 * c * poison.T @ (poison @ phi - sign))
    assert Ridge(C=c).contributions(task).sum() == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("learner", [LinearSVM(C=0.1), LinearSVM(C=10), RBFSVM(C=10, gamma=0.02)], ids=str)
def test_contributions_of_machines_sum_to_the_slope_of_equation_8(learner: LinearSVM | RBFSVM) -> None:
    task = digits_task()
    kernel, sign = learner.kernel(task), task.train_sign
    state = learner._solve(task, kernel, 0.0)
    free, short = np.flatnonzero(state.free), np.flatnonzero(task.poisoned & (state.margins < 1))
    rates = learner.C * sign[short]
    system = np.block([[kernel[np.ix_(free, free)], np.ones((len(free), 1))], [np.ones((1, len(free))), 0]])
    answer = -np.linalg.solve(system, np.append(kernel[np.ix_(free, short)] @ rates, rates.sum()))
    x, wanted = task.triggered_x, task.triggered_sign
    cross = x @ task.train_x.T if isinstance(learner, LinearSVM) else rbf_kernel(x, task.train_x, gamma=learner.gamma)
    decisions = learner.path(task, [0.0]).decision_function(x)[0]
    moved = cross[:, short] @ rates + cross[:, free] @ answer[:-1] + answer[-1]
    slope = ((wanted * decisions < 1) * -wanted * moved).mean()
    assert learner.contributions(task).sum() == pytest.approx(slope, rel=1e-11)
    assert not learner.contributions(task)[~np.isin(np.flatnonzero(task.poisoned), short)].any()
