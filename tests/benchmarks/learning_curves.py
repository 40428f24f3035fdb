"""Exact learning curves and slopes against cold fits and dense inverses, on made images of MNIST's size.

A `BinaryTask` keeps what its learners share, so our side starts from a fresh one each time where the other side
starts cold.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.special import expit
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from raybd.convex import BinaryTask, LinearSVM, Logistic, Ridge, slope_exact
from raybd.convex.class_pairs import ClassPair, backdoor_task
from raybd.convex.legacy import legacy_accuracies, slope_legacy
from raybd.convex.newton import minimise
from raybd.convex.record import curve_record
from raybd.convex.task import Array
from raybd.convex.triggers import random_patches, stamp_patches
from tests.benchmarks.timing import Row, Side, interleave, rate, require

TRAIN, TEST, SIDE, RATE = 1500, 500, 28, 0.1
BETAS = [b / 100 for b in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 19, 24, 29, 36, 44, 54, 66, 81, 99)]  # the paper's
MANY = np.linspace(0, 1, 1000).tolist()
GRID = np.geomspace(1e-4, 1e3, 10)[1:6]  # of C: half of the paper's, without those where nothing happens
SEEDS = (1, 10)
ONE_BETA = (0.01, 1.0)  # C
Outcome = list[list[float]]


def learning_curves() -> list[Row]:
    """Curves, slopes and table rows a CPU second, on one BLAS thread."""
    with threadpool_limits(limits=1):
        task = _made_task(1)
        return [
            *(_curve(task), _many(task), *_one_beta(task)),
            *_slopes(task),
            *_tables([_made_task(seed) for seed in SEEDS]),
        ]


def _curve(task: BinaryTask) -> Row:
    learner = Ridge(C=1)

    def ours() -> Array:
        return learner.curve(replace(task), BETAS).backdoor_loss

    def plain() -> Array:
        models = [RidgeClassifier(alpha=0.5).fit(task.train_x, task.train_sign, task.weights(b)) for b in BETAS]
        losses = [_squared(model, task.test_x, task.test_sign) for model in models]
        require(np.isfinite(losses).all(), "a clean loss is no number")
        return np.array([_squared(model, task.triggered_x, task.triggered_sign) for model in models])

    apart = np.abs(ours() - plain()).max()
    require(apart < 1e-10, f"ridge curves, by {apart:.2g}")
    return _row(f"ridge curve, {len(BETAS)} betas: path / refits", "curves/CPU-s", ours, plain)


def _many(task: BinaryTask) -> Row:
    learner = Ridge(C=1)

    def curve(betas: list[float]) -> Array:
        return learner.curve(replace(task), betas).backdoor_loss

    name = f"ridge curve: {len(MANY):,} betas / {len(BETAS)} betas, both ours"
    return _row(name, "curves/CPU-s", partial(curve, MANY), partial(curve, BETAS))


def _one_beta(task: BinaryTask) -> list[Row]:
    """A trial with `--betas 1` against the authors' row: two fits, and the influence by a dense inverse.

    Ours has that influence too, beside the exact curve at 0 and 1 and its slope.
    """
    bare = _without_poison(task)
    rows = []
    for learner in (kind(C=c) for kind in (LinearSVM, Logistic) for c in ONE_BETA):
        ours, plain = partial(_our_trial, learner, task), partial(_their_row, learner, bare, task)
        require(abs(ours() - plain()) < 0.01, f"attack success of {learner}")
        rows.append(_row(f"{learner}: a trial with --betas 1 / the authors' row", "trials/CPU-s", ours, plain))
    return rows


def _our_trial(learner: LinearSVM | Logistic, task: BinaryTask) -> float:
    fresh = replace(task)
    learner.path(fresh, [1.0]).decision_function(fresh.train_x)
    return float(curve_record(learner, fresh, [1.0]).arrays["attack_success"][-1])


def _their_row(learner: LinearSVM | Logistic, bare: BinaryTask, task: BinaryTask) -> float:
    fresh = replace(task)
    slope_legacy(learner, fresh)
    return legacy_accuracies(learner, replace(bare), fresh).attack_success


def _slopes(task: BinaryTask) -> list[Row]:
    """From a trained model: ridge has the factor of its Hessian from the fit, logistic regression has nothing."""
    ridge, logistic = Ridge(C=0.1), Logistic(C=0.1)
    factor, objective = ridge.factor(task, 0.0), logistic.objective(task, 0.0)
    phi = ridge.optimum(task, factor, 0.0)
    psi = minimise(objective, np.zeros(task.train_rows.shape[1]), 1e-9)
    triggered = (task.triggered_x, task.triggered_sign)

    def ours_ridge() -> Array:
        return ridge.influence_at(task, factor, phi, *triggered)[task.poisoned]

    def ours_logistic() -> Array:
        return logistic.influence_at(task, objective.hessian(psi), psi, *triggered)[task.poisoned]

    return [
        _slope_row("ridge", ours_ridge, partial(_dense_ridge, task, ridge.C, task.to_features(phi))),
        _slope_row("logistic", ours_logistic, partial(_dense_logistic, task, logistic.C, task.to_features(psi))),
    ]


def _slope_row(name: str, ours: Side, plain: Side) -> Row:
    first, second = np.asarray(ours()), np.asarray(plain())
    apart = np.abs(first - second).max() / np.abs(second).max()
    require(apart < 1e-8, f"{name} contributions, by {apart:.2g}")
    return _row(f"{name} slope, {len(first)} poison points: one solve / dense inverse", "slopes/CPU-s", ours, plain)


def _dense_ridge(task: BinaryTask, c: float, phi: Array) -> Array:
    clean = _rows(task.train_x[~task.poisoned])
    hessian = 2 * c * clean.T @ clean + np.diag([1.0] * SIDE**2 + [0.0])
    tested, poison = _rows(task.triggered_x), _rows(task.train_x[task.poisoned])
    at_test = 2 * (tested @ phi - task.triggered_sign)[:, None] * tested
    at_poison = 2 * c * (poison @ phi - task.train_sign[task.poisoned])[:, None] * poison
    return _dense(hessian, at_test, at_poison)


def _dense_logistic(task: BinaryTask, c: float, phi: Array) -> Array:
    clean = _rows(task.train_x[~task.poisoned])
    share = expit(clean @ phi)
    hessian = c * clean.T @ ((share * (1 - share))[:, None] * clean) + np.eye(SIDE**2 + 1)
    tested, poison = _rows(task.triggered_x), _rows(task.train_x[task.poisoned])
    sign = task.train_sign[task.poisoned]
    at_test = (-task.triggered_sign * expit(-task.triggered_sign * (tested @ phi)))[:, None] * tested
    at_poison = c * (-sign * expit(-sign * (poison @ phi)))[:, None] * poison
    return _dense(hessian, at_test, at_poison)


def _dense(hessian: Array, at_test: Array, at_poison: Array) -> Array:
    """As the authors' code goes about it: a determinant to choose the inverse by, then every pair of points."""
    singular = np.linalg.slogdet(hessian)[1] < np.log(1e-6)
    inverse = np.linalg.pinv(hessian) if singular else np.linalg.inv(hessian)
    pairs: Array = -at_test @ inverse @ at_poison.T
    return pairs.mean(0)


def _tables(tasks: Sequence[BinaryTask]) -> list[Row]:
    """Rows of the published kind: accuracy without poison, with it, attack success; for ridge the slope as well."""
    rows = len(tasks) * len(GRID)
    ridge = partial(_our_table, Ridge, tasks), partial(_cold_ridge, tasks)
    machine = partial(_our_table, LinearSVM, tasks), partial(_cold_machine, tasks)
    for name, (ours, plain) in (("ridge", ridge), ("svm", machine)):
        first, second = np.array(ours()), np.array(plain())
        apart = np.abs(first[:, :3] - second[:, :3]).max() * TEST
        require(apart < 1.5, f"{name} table, by {apart:.1f} test points")  # libsvm's loose stop may move one
        require(np.allclose(first[:, 3], second[:, 3], rtol=1e-6), f"{name} table, by its slopes")
    return [
        _row(f"ridge table, {rows} rows: ours / cold fits", "tables/CPU-s", *ridge),
        _row(f"svm table, {rows} rows: ours / cold fits", "tables/CPU-s", *machine),
    ]


def _our_table(kind: type[Ridge] | type[LinearSVM], tasks: Sequence[BinaryTask]) -> Outcome:
    fresh, bare = [replace(task) for task in tasks], _without_poison(tasks[0])
    clean = {c: float(kind(C=c).curve(bare, [0]).clean_accuracy[0]) for c in GRID}
    outcome = []
    for task in fresh:
        for c in GRID:
            curve = kind(C=c).curve(task, [1])
            slope = slope_exact(kind(C=c), task).derivative if kind is Ridge else 0.0
            outcome.append([clean[c], float(curve.clean_accuracy[0]), float(curve.attack_success[0]), slope])
    return outcome


def _cold_ridge(tasks: Sequence[BinaryTask]) -> Outcome:
    bare, outcome = _without_poison(tasks[0]), []
    for task in tasks:
        for c in GRID:
            model = RidgeClassifier(alpha=1 / (2 * c))
            before = model.fit(task.train_x[~task.poisoned], task.train_sign[~task.poisoned])
            phi = np.append(before.coef_, before.intercept_)
            outcome.append([*_accuracies(model, bare, task), float(_dense_ridge(task, c, phi).sum())])
    return outcome


def _cold_machine(tasks: Sequence[BinaryTask]) -> Outcome:
    bare = _without_poison(tasks[0])
    return [[*_accuracies(SVC(kernel="linear", C=c), bare, task), 0.0] for task in tasks for c in GRID]


def _accuracies(model: RidgeClassifier | SVC, bare: BinaryTask, task: BinaryTask) -> list[float]:
    clean = float(model.fit(bare.train_x, bare.train_sign).score(bare.test_x, bare.test_sign))
    model.fit(task.train_x, task.train_sign)
    tests = ((task.test_x, task.test_sign), (task.triggered_x, task.triggered_sign))
    return [clean, *(float(model.score(x, sign)) for x, sign in tests)]


def _row(name: str, unit: str, ours: Side, plain: Side) -> Row:
    seconds = interleave({"ours": ours, "plain": plain})
    return replace(rate(name, seconds["ours"], seconds["plain"], (1, 1)), unit=unit)


def _squared(model: RidgeClassifier, x: Array, sign: Array) -> float:
    return float(np.square(1 - sign * model.decision_function(x)).mean())


def _rows(x: Array) -> Array:
    return np.column_stack([x, np.ones(len(x))])


def _made_pair() -> ClassPair:
    """Two classes of noisy prototypes; half of the pixels are dead, as in MNIST."""
    rng = np.random.default_rng(0)
    nonzero_features = rng.random(SIDE**2) < 0.5
    prototypes = rng.random((2, SIDE**2)) * 0.3 + 0.3 * rng.random(SIDE**2)
    y = rng.integers(0, 2, TRAIN + TEST)
    mixed = prototypes[y] + rng.normal(size=(len(y), 30)) @ rng.normal(size=(30, SIDE**2)) * 0.08
    x = ((mixed + rng.normal(size=mixed.shape) * 0.05).clip(0, 1) * nonzero_features).reshape(-1, 1, SIDE, SIDE)
    return ClassPair(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:])


def _made_task(seed: int, share: float = RATE) -> BinaryTask:
    trigger = partial(stamp_patches, patches=random_patches(seed, 2, 1, 3))
    return backdoor_task(_made_pair(), trigger, share, seed)


def _without_poison(task: BinaryTask) -> BinaryTask:
    bare = _made_task(1, 0.0)
    require(bool((bare.test_x == task.test_x).all()), "the test points of two tasks of one pair")
    return bare
