"""Curves, weights and paths: ridge against refits, weights against copies, rho and nu, explanations."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC

from raybd.convex import RBFSVM, BinaryTask, Learner, LinearSVM, Logistic, Ridge, slope_exact
from raybd.convex.deviation import direction_change
from raybd.convex.svm import rbf
from raybd.errors import InputError
from tests.test_convex_digits import ALL, deviation_at, digits_pair, digits_task, legacy_curve

BETAS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 19, 24, 29, 36, 44, 54, 66, 81, 99]) / 100  # the paper's


@pytest.mark.parametrize("c", [1e-3, 0.1, 10, 1000])
def test_ridge_path_is_that_of_refits(c: float) -> None:
    task, learner = digits_task(), Ridge(C=c)
    curve = learner.curve(task, BETAS.tolist())
    for beta, backdoor, clean in zip(BETAS, curve.backdoor_loss, curve.clean_loss, strict=True):
        refit = RidgeClassifier(alpha=1 / (2 * c)).fit(task.train_x, task.train_sign, task.weights(beta))
        refitted = [
            np.square(1 - sign * refit.decision_function(x)).mean()
            for x, sign in ((task.triggered_x, task.triggered_sign), (task.test_x, task.test_sign))
        ]
        assert [backdoor, clean] == pytest.approx(refitted, abs=1e-10)
    ends = learner.path(task, [0.3, 1.0]).decision_function(task.test_x)
    alone = learner.path(task, [1.0]).decision_function(task.test_x)
    assert ends[1] == pytest.approx(alone[0], abs=1e-13)


def test_ridge_derivative_of_the_path_is_the_slope() -> None:
    task, learner = digits_task(), Ridge(C=1)
    path = learner.path(task, [0.0, 0.5])
    assert (path.shares[0] == 0).all()
    rate = path.shares[1] * (1 + 0.5 * mu(task, learner)) / 0.5  # r of the path's equation, its speed at 0
    moved = (task.triggered_x @ path.directions[:, :-1].T + path.directions[:, -1]) @ rate
    derivative = (2 * (path.decision_function(task.triggered_x)[0] - task.triggered_sign) * moved).mean()
    assert derivative == pytest.approx(slope_exact(learner, task).derivative, rel=1e-10)


def mu(task: BinaryTask, learner: Ridge) -> np.ndarray:
    """The eigenvalues of S, from the dense inverse."""
    clean, poison = (np.column_stack([x, np.ones(len(x))]) for x in (task.train_x[~task.poisoned], poisons(task)))
    g = 2 * learner.C * clean.T @ clean + np.diag([1.0] * 64 + [0.0])
    return np.linalg.eigvalsh(2 * learner.C * poison @ np.linalg.inv(g) @ poison.T)


def poisons(task: BinaryTask) -> np.ndarray:
    return task.train_x[task.poisoned]


@pytest.mark.parametrize("learner", ALL, ids=str)
@pytest.mark.parametrize("times", [2, 3])
def test_a_weight_is_so_many_copies(learner: Learner, times: int) -> None:
    task = digits_task()
    copies = (times - 1) * task.poison_count
    rows = np.concatenate([np.arange(241), *[np.flatnonzero(task.poisoned)] * (times - 1)])
    copied = replace(task, train_x=task.train_x[rows], train_sign=task.train_sign[rows], poisoned=task.poisoned[rows])
    assert copied.poison_count == copies + 24
    weighted = learner.curve(task, [times]).backdoor_loss
    assert learner.curve(copied, [1]).backdoor_loss == pytest.approx(weighted, rel=1e-8)


@pytest.mark.parametrize("learner", ALL, ids=str)
def test_beta_0_is_training_without_the_poison(learner: Learner) -> None:
    task = digits_task()
    clean = ~task.poisoned
    without = replace(
        task, train_x=task.train_x[clean], train_sign=task.train_sign[clean], poisoned=task.poisoned[clean]
    )
    with_zero, bare = learner.curve(task, [0, 0.5]), learner.curve(without, [0, 0.5])
    assert with_zero.backdoor_loss[0] == pytest.approx(bare.backdoor_loss[0], rel=1e-10)
    assert bare.backdoor_loss[1] == pytest.approx(bare.backdoor_loss[0], rel=1e-12)
    assert with_zero.backdoor_loss[1] < bare.backdoor_loss[1]


@pytest.mark.parametrize("learner", ALL, ids=str)
def test_betas_in_any_order_and_close_to_those_of_loose_solvers(learner: Learner) -> None:
    task = digits_task()
    forwards, backwards = learner.curve(task, [0, 0.2, 1]), learner.curve(task, [1, 0.2, 0])
    assert backwards.backdoor_loss[::-1] == pytest.approx(forwards.backdoor_loss, rel=1e-9)
    assert backwards.betas.tolist() == [1, 0.2, 0]
    loose = legacy_curve(learner, task, [0, 0.2, 1])
    assert loose.backdoor_loss == pytest.approx(forwards.backdoor_loss, rel=5e-3)
    assert loose.clean_loss == pytest.approx(forwards.clean_loss, rel=5e-3)


@pytest.mark.parametrize("learner", [Ridge(C=0.1), Logistic(C=0.1)], ids=str)
def test_more_features_than_points(learner: Learner) -> None:
    """Features that are a rotation of the old ones into 500 dimensions leave everything as it was."""
    task, wide = digits_task(), np.linalg.qr(np.random.default_rng(0).normal(size=(500, 64)))[0].T
    names = ("train_x", "test_x", "triggered_x")
    widened = replace(task, **{name: getattr(task, name) @ wide for name in names})
    assert widened.basis is not None
    assert widened.basis.shape == (500, 241)
    assert learner.curve(widened, BETAS).backdoor_loss == pytest.approx(learner.curve(task, BETAS).backdoor_loss)
    ours, theirs = slope_exact(learner, widened), slope_exact(learner, task)
    assert ours.contributions == pytest.approx(theirs.contributions, rel=1e-8)
    assert deviation_at(learner, widened, [0.5]).rho == pytest.approx(deviation_at(learner, task, [0.5]).rho)
    ours, theirs = (learner.path(t, [0, 1]).gradient(t.triggered_x[3]) for t in (widened, task))
    assert ours == pytest.approx(theirs @ wide)


def test_turn_by_hand() -> None:
    before, after = np.array([3.0, 4.0]), np.array([[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0]])
    assert direction_change(after @ before, 5.0, np.linalg.norm(after, axis=1)) == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("learner", [Ridge(C=1), Logistic(C=1), LinearSVM(C=1)], ids=str)
def test_deviation_is_of_the_weights_alone(learner: Learner) -> None:
    task = digits_task()
    found = deviation_at(learner, task, [0.01, 1])
    weights = learner.path(task, [0, 0.01, 1]).gradient(task.test_x[0])
    sizes = np.linalg.norm(weights, axis=1)
    cosines = weights[1:] @ weights[0] / (sizes[0] * sizes[1:])
    assert found.rho == pytest.approx(sizes[1:])
    assert found.nu == pytest.approx((1 - cosines) / 2, abs=1e-14)
    assert found.nu[0] < found.nu[1] < 0.5


def test_the_authors_rbf_path_jumps_at_0_and_ours_does_not() -> None:
    """libsvm drops points of weight 0 and numbers support vectors without them: `support_` is not of our rows."""
    task, learner = digits_task(), RBFSVM(C=100, gamma=0.02)
    found = deviation_at(learner, task, [0, 0.01])
    assert found.nu[0] == pytest.approx(0, abs=1e-12)
    assert found.nu[1] < 0.1
    naive = naive_duals(learner, task)
    product = naive @ learner.kernel(task) @ naive_duals(learner, task, 0.01)
    before, after = (np.sqrt(d @ learner.kernel(task) @ d) for d in (naive, naive_duals(learner, task, 0.01)))
    assert (
        direction_change(product, before, np.array(after)) > 0.35
    )  # 0.48 to 0.64 on MNIST (tests/test_convex_mnist.py)


def naive_duals(learner: RBFSVM, task: BinaryTask, beta: float = 0.0) -> np.ndarray:
    """Signed duals as the authors place them."""
    machine = SVC(kernel="precomputed", C=learner.C).fit(learner.kernel(task), task.train_sign, task.weights(beta))
    duals = np.zeros(len(task.train_sign))
    duals[machine.support_] = machine.dual_coef_[0]
    return duals


@pytest.mark.parametrize("learner", ALL, ids=str)
@pytest.mark.parametrize("side", [-1, 1])
def test_gradients_are_those_of_the_decisions(learner: Learner, side: int) -> None:
    task = digits_task()
    path = learner.path(task, [0, 1])
    index = int(np.argmax(side * path.decision_function(task.triggered_x)[0]))  # of this class, without the poison
    x = task.triggered_x[index]
    nudged = np.concatenate([x + 1e-6 * np.eye(64), x - 1e-6 * np.eye(64)])
    values = path.decision_function(nudged)
    slopes = (values[:, :64] - values[:, 64:]) / 2e-6
    assert np.sign(path.decision_function(x[None])[0, 0]) == side
    assert path.gradient(x) == pytest.approx(slopes, abs=1e-6)


def test_the_poison_explains_a_backdoor() -> None:
    """A learned trigger: its nine pixels count for more, and poison points stand among the most influential."""
    task, learner = digits_task(3), LinearSVM(C=10)
    index = int(np.argmax(learner.path(task, [1.0]).decision_function(task.triggered_x)[0] * task.triggered_sign))
    x = task.triggered_x[index]
    patch = np.zeros((8, 8), dtype=bool)
    patch[-3:, -3:] = True
    gradients = np.abs(learner.path(task, [0, 1]).gradient(x))
    shares = gradients[:, patch.ravel()].sum(1) / gradients.sum(1)
    assert shares[1] > 1.5 * shares[0]
    influence = np.abs(learner.influence(task, 1.0, x[None], task.triggered_sign[[index]]))
    assert task.poisoned[np.argsort(-influence)[:7]].any()


def test_rbf_kernel_by_hand() -> None:
    x = digits_pair().train_x[:5].reshape(5, -1)
    by_hand = [[np.exp(-0.3 * ((a - b) ** 2).sum()) for b in x] for a in x]
    assert rbf(x, x, 0.3) == pytest.approx(np.array(by_hand))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ridge(C=0), "C must be above 0 and finite, got 0"),
        (lambda: LinearSVM(C=-1), "C must be above 0 and finite, got -1"),
        (lambda: Logistic(C=float("inf")), "C must be above 0 and finite, got inf"),
        (lambda: RBFSVM(C=0, gamma=0), "gamma must be above 0 and finite, got 0"),
        (lambda: Ridge().curve(digits_task(), [0, -0.1]), "betas -0.1 weigh nothing"),
        (lambda: Ridge().curve(digits_task(), []), r"betas \(none\)"),
        (lambda: Ridge().curve(digits_task(), [float("nan"), float("inf")]), "betas nan, inf"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_every_problem_at_once_and_whole_numbers_are_floats() -> None:
    with pytest.raises(InputError) as caught:
        RBFSVM(C=-1, gamma=-1)
    assert len(caught.value.problems) == 2
    assert repr(Ridge(C=1)) == repr(Ridge(C=1.0)) == "Ridge(C=1.0)"


@pytest.mark.parametrize("learner", ALL, ids=str)
def test_features_that_training_never_saw_change_nothing(learner: Learner) -> None:
    """Pixels that are 0 in every training image get no weight, whatever they are in a test image."""
    task = digits_task()
    noise = np.random.default_rng(0).normal(size=(120, 5))
    dead = {"train_x": np.zeros((241, 5)), "test_x": noise, "triggered_x": noise}
    if isinstance(learner, RBFSVM):  # a kernel of distances sees them
        dead |= {"test_x": 0 * noise, "triggered_x": 0 * noise}
    wider = replace(task, **{name: np.hstack([x, getattr(task, name)]) for name, x in dead.items()})
    assert wider.nonzero_features.sum() == task.nonzero_features.sum() < 64
    assert learner.curve(wider, [0, 1]).backdoor_loss == pytest.approx(learner.curve(task, [0, 1]).backdoor_loss)
    assert slope_exact(learner, wider).derivative == pytest.approx(slope_exact(learner, task).derivative)
    weights = learner.path(wider, [1.0]).gradient(wider.test_x[0])[0]
    assert weights[:5] == pytest.approx(0, abs=1e-14)
