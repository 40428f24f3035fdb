"""A trial of a convex learner solves each of its problems once, and keeps nothing of the learner before."""

import pkgutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raybd.convex import BinaryTask, LinearSVM, Logistic, svm
from raybd.convex.kkt import SVMSolution
from raybd.convex.learner import Learner
from raybd.convex.legacy import fit_published
from raybd.convex.record import curve_record


@pytest.fixture(scope="module")
def task() -> BinaryTask:
    rng = np.random.default_rng(0)
    sign = np.where(np.arange(40) % 2, 1.0, -1.0)
    x = rng.normal(size=(40, 5)) + sign[:, None]
    halves = {"test_x": x[:10], "test_sign": sign[:10], "triggered_x": x[:10] + 1, "triggered_sign": -sign[:10]}
    return BinaryTask(train_x=x, train_sign=sign, poisoned=np.arange(40) < 4, **halves)


@pytest.mark.parametrize(
    ("learner", "solver", "number"),
    [
        (LinearSVM(C=0.1), "raybd.convex.svm.SVM._solve_anew", 2),  # at beta 0 and 1
        (Logistic(C=0.1), "raybd.convex.logistic.minimise", 2),
    ],
)
def test_a_trial_with_one_beta(
    learner: Learner, solver: str, number: int, task: BinaryTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, calls = replace(task), []
    expected = curve_record(learner, replace(task), [1.0])
    original = pkgutil.resolve_name(solver)
    monkeypatch.setattr(solver, lambda *args: calls.append(args) or original(*args))
    learner.path(fresh, [1.0])
    found = curve_record(learner, fresh, [1.0])
    assert len(calls) == number
    assert found.numbers == expected.numbers  # to the last bit


def test_what_a_learner_left_is_let_go(task: BinaryTask) -> None:
    fresh, first = replace(task), LinearSVM(C=0.1)
    model = fit_published(first, fresh, 1.0)
    assert fit_published(LinearSVM(C=0.1), fresh, 1.0) is model  # an equal learner is the same
    assert fit_published(first, fresh, 0.0) is not model
    fit_published(Logistic(C=0.1), fresh, 1.0)
    assert fit_published(first, fresh, 1.0) is not model


@pytest.mark.parametrize("first", [1e-5, 1.0])
def test_a_machine_is_exact_however_early_libsvm_stopped_at_first(
    first: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1e-5 libsvm has found which duals are free; at 1 it has not, which the conditions tell, and it runs again."""
    learner, asked, libsvm = LinearSVM(C=1), [], LinearSVM._libsvm
    rng = np.random.default_rng(1)
    sign = np.where(np.arange(120) % 2, 1.0, -1.0)
    x = rng.normal(size=(120, 8)) + 0.3 * sign[:, None]
    halves = {"test_x": x[:4], "test_sign": sign[:4], "triggered_x": x[:4], "triggered_sign": -sign[:4]}
    task = BinaryTask(train_x=x, train_sign=sign, poisoned=np.arange(120) < 8, **halves)
    monkeypatch.setattr(svm, "TOLERANCES", (1e-9,))
    exact = learner._solve_anew(task, task.gram, 1.0)

    def stopped(self: LinearSVM, *given: Any) -> SVMSolution:
        asked.append(given[-1])
        return libsvm(self, *given)

    monkeypatch.setattr(svm, "TOLERANCES", (first, 1e-9))
    monkeypatch.setattr(LinearSVM, "_libsvm", stopped)
    found = learner._solve_anew(task, task.gram, 1.0)
    assert asked == [first] if first < 1 else [first, 1e-9]
    np.testing.assert_array_equal(found.duals, exact.duals)
    assert found.violation < 1e-12
    wrong = replace(found, duals=np.where(np.arange(120) == 5, 0.0, found.duals) + 1e-3)
    assert wrong.violation > 1e-4
