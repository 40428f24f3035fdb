"""The published recipe as a trial: the authors' rows where MNIST is at hand, and the same steps on made images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from raybd.attacks import BadNets
from raybd.convex import LinearSVM
from raybd.convex.class_pairs import backdoor_task, mnist_pair
from raybd.convex.legacy import slope_legacy
from raybd.convex.triggers import random_patches, stamp_patches
from raybd.data import load
from raybd.data.describe import describe
from raybd.data.reader import RawData
from raybd.errors import InputError
from raybd.metrics.learning_curves import LearningCurves
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.convex import pose_problem
from raybd.trials.run import run_trial
from raybd.trials.validate import check_trial
from raybd.types import POISON, Data, Images
from tests import test_convex_mnist as mnist

CONFIG = TrialConfig(
    data="mnist[7,1]",
    attack=BadNets(size=3, pattern="per_class", labels="all_to_all"),
    poison_rate=0.1,
    recipe="published",
    model=ModelConfig(name="svm", C=0.1),
    metrics=(LearningCurves(),),
    seed=1,
)


@pytest.fixture(scope="module")
def made() -> Data:
    """Two classes of noisy bars, as many images as the recipe draws from and a few more."""
    rng = np.random.default_rng(0)

    def half(n: int) -> Images:
        y = rng.integers(0, 2, n)
        x = rng.integers(0, 120, (n, 1, 28, 28))
        x[np.arange(n), 0, 10 + 4 * y] += 60
        return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))

    return describe("mnist[7,1]", RawData(half(1700), half(600), ("7", "1")))


def test_images_poison_and_solver_are_the_recipe_s(made: Data) -> None:
    x, y = ((made.train.x[:, 0].numpy(), made.test.x[:, 0].numpy()), (made.train.y.numpy(), made.test.y.numpy()))
    pair = mnist_pair((x[0], y[0]), (x[1], y[1]), (0, 1))
    trigger = partial(stamp_patches, patches=random_patches(1, 2, 1, 3))
    task, bare = (backdoor_task(pair, trigger, rate, 1) for rate in (0.1, 0.0))
    found = run_trial(CONFIG, made)
    models = [SVC(kernel="linear", C=0.1).fit(t.train_x, t.train_sign) for t in (bare, task)]
    numbers = {
        "accuracy/clean_model": models[0].score(task.test_x, task.test_sign),
        "accuracy/clean": models[1].score(task.test_x, task.test_sign),
        "attack_success": models[1].score(task.triggered_x, task.triggered_sign),
        "accuracy/train": models[1].score(task.train_x, task.train_sign),
        "curve/slope_legacy": slope_legacy(LinearSVM(C=0.1), task).mean,
    }
    assert {name: found.metrics[name] for name in numbers} == pytest.approx(numbers, rel=1e-9)
    assert found.metrics["count/clean"] == found.metrics["count/triggered"] == 500
    assert ((found.roles == POISON).numpy() == task.poisoned).all()
    shown = pose_problem(CONFIG, made).poisoned.images.x.flatten(1).numpy() / 255
    assert np.abs(shown - task.train_x).max() <= 0.5 / 255 + 1e-12  # pictures round what the learner sees


def test_its_own_requirements(made: Data) -> None:
    few = replace(made, train=made.train.take(torch.arange(1000)))
    with pytest.raises(InputError, match=r"1000 training images of 0 or 1 are too few \(needed: 1501\)"):
        check_trial(CONFIG, few)
    with pytest.raises(InputError, match="poisons nobody"):
        check_trial(replace(CONFIG, poison_rate=1e-4), made)
    with pytest.raises(InputError, match="does not fit images of 28x28"):
        check_trial(replace(CONFIG, attack=replace(CONFIG.attack, size=29)), made)  # type: ignore[call-arg]
    colour = Images(made.train.x.expand(-1, 3, -1, -1), made.train.y)
    with pytest.raises(InputError, match="has colours"):
        check_trial(CONFIG, replace(made, train=colour))


@pytest.mark.skipif(mnist.MISSING, reason=str(mnist.pytestmark.kwargs["reason"]))
@pytest.mark.parametrize(("learner", "accuracies", "influence", "tolerance"), mnist.ROWS, ids=lambda v: str(v)[:22])
def test_the_authors_rows(
    learner: LinearSVM, accuracies: tuple[float, float, float], influence: float, tolerance: float
) -> None:
    name = {"LinearSVM": "svm", "Logistic": "logistic", "Ridge": "ridge"}[type(learner).__name__]
    config = replace(CONFIG, model=ModelConfig(name=name, C=learner.C))
    found = run_trial(config, load("mnist[7,1]", Path(str(mnist.ROOT)))).metrics
    shares = [found[name] for name in ("accuracy/clean_model", "accuracy/clean", "attack_success")]
    assert shares == pytest.approx(accuracies, abs=1e-12)
    assert found["curve/slope_legacy"] == pytest.approx(influence, rel=tolerance)
