"""A convex trial is a trial: its numbers against scikit-learn's own fits of the same poisoned images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC

from raybd.attacks import BadNets, Blended
from raybd.attacks.none import NoAttack
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import load
from raybd.defences.oracle import Oracle
from raybd.errors import InputError
from raybd.metrics.learning_curves import LearningCurves
from raybd.metrics.smoothness import Smoothness
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.convex import pose_problem
from raybd.trials.run import run_trial
from raybd.trials.validate import check_trial
from raybd.types import POISON, Data, Images, Report

PATCH = BadNets(size=2, pattern="per_class", labels="all_to_all")
CONFIG = TrialConfig(
    data="digits[7,1]",
    attack=PATCH,
    poison_rate=0.1,
    model=ModelConfig(name="ridge", C=1),
    metrics=(LearningCurves(),),
    seed=4,
)


@pytest.fixture(scope="module")
def pair() -> Data:
    return load("digits[7,1]")


def points(images: Images) -> np.ndarray:
    return images.x.reshape(len(images), -1).double().numpy() / 255


def signs(images: Images) -> np.ndarray:
    return 2.0 * images.y.numpy() - 1


@pytest.mark.parametrize(
    ("model", "estimator"),
    [
        (ModelConfig(name="ridge", C=1), RidgeClassifier(alpha=0.5)),
        (ModelConfig(name="svm", C=3), SVC(kernel="linear", C=3, tol=1e-6)),
        (ModelConfig(name="svm_rbf", C=3, gamma=0.05), SVC(kernel="rbf", C=3, gamma=0.05, tol=1e-6)),
    ],
    ids=["ridge", "svm", "svm_rbf"],
)
@pytest.mark.parametrize("attack", [PATCH, BadNets(target=1), Blended(alpha=0.3)], ids=["patch", "target 1", "blended"])
def test_shares_and_tables_are_those_of_a_fit_of_the_poisoned_images(
    model: ModelConfig, estimator: SVC, attack: BadNets, pair: Data
) -> None:
    config = replace(CONFIG, attack=attack, model=model)
    recipe = PoisonSpec(attack, 0.1, 4)
    poisoned, triggered = recipe.poison(pair.train, 2), recipe.triggered(pair.test, 2)
    estimator.fit(points(poisoned.images), signs(poisoned.images))
    clean, stamped = ((estimator.predict(points(i)) > 0).astype(int) for i in (pair.test, triggered))
    result = run_trial(config, pair)
    among = recipe.measured(pair.test.y).numpy()
    assert result.table["clean_prediction"].tolist() == clean.tolist()
    assert result.table["triggered_prediction"].tolist() == stamped.tolist()
    assert result.metrics["accuracy/clean"] == (clean == pair.test.y.numpy()).mean()
    assert result.metrics["attack_success"] == (stamped == triggered.y.numpy())[among].mean()
    assert result.metrics["accuracy/robust"] == 1 - result.metrics["attack_success"]
    assert result.metrics["count/triggered"] == among.sum()
    assert result.metrics["curve/attack_success/beta_1"] == pytest.approx(result.metrics["attack_success"], abs=1e-12)
    assert torch.equal(result.roles, poisoned.roles)
    assert result.manifest["poison"] == int((poisoned.roles == POISON).sum()) == 26
    trained = estimator.predict(points(poisoned.images)) == signs(poisoned.images)
    assert result.metrics["accuracy/train"] == trained.mean()


def weighted(pair: Data, beta: float) -> float:
    """B(beta) of ridge from scikit-learn with sample weights."""
    recipe = PoisonSpec(PATCH, 0.1, 4)
    poisoned, triggered = recipe.poison(pair.train, 2), recipe.triggered(pair.test, 2)
    weights = np.where(poisoned.roles.numpy() == POISON, beta, 1.0)
    model = RidgeClassifier(alpha=0.5).fit(points(poisoned.images), signs(poisoned.images), weights)
    return float(np.square(1 - signs(triggered) * model.decision_function(points(triggered))).mean())


def test_the_curve_and_its_slope_against_weighted_fits(pair: Data) -> None:
    found = run_trial(CONFIG, pair)
    for beta in (0, 0.01, 0.1, 1):
        assert found.metrics[f"curve/B/beta_{beta:g}"] == pytest.approx(weighted(pair, beta), rel=1e-9)
    step = 1e-6
    secant = (weighted(pair, step) - weighted(pair, 0)) / step
    assert found.metrics["curve/slope"] == pytest.approx(secant, rel=1e-3)
    assert found.metrics["curve/theta"] == pytest.approx(-2 / np.pi * np.arctan(found.metrics["curve/slope"]))
    assert found.metrics["curve/log_slope"] == pytest.approx(np.log10(-found.metrics["curve/slope"]))
    whole = weighted(pair, 1) - weighted(pair, 0)
    assert found.metrics["curve/secant"] == pytest.approx(whole, rel=1e-9)
    assert found.metrics["loss/triggered"] == pytest.approx(weighted(pair, 1), rel=1e-9)
    assert found.arrays["curve/contributions/1"].sum().item() == pytest.approx(found.metrics["curve/slope"], rel=1e-9)
    assert found.metrics["curve/nu/beta_0"] == pytest.approx(0, abs=1e-12)
    assert {"curve/slope_legacy", "curve/theta_legacy", "curve/area", "curve/unique"} <= found.metrics.keys()


def test_one_report_and_finite_numbers(pair: Data) -> None:
    reports: list[Report] = []
    result = run_trial(CONFIG, pair, reports.append)
    assert [r.epoch for r in reports] == [1]
    assert reports[0].metrics == result.metrics
    assert all(isinstance(value, float) and np.isfinite(value) for value in result.metrics.values())
    again = run_trial(CONFIG, pair).metrics
    assert {k: v for k, v in again.items() if k != "seconds/trial"} == {
        k: v for k, v in result.metrics.items() if k != "seconds/trial"
    }


def test_a_clean_twin_has_accuracy_and_no_curve(pair: Data) -> None:
    for attack in (PATCH, NoAttack()):
        found = run_trial(replace(CONFIG, attack=attack, poison_rate=0.0), pair).metrics
        assert found["accuracy/clean"] > 0.95
        assert not [name for name in found if name.startswith("curve/")]


def test_the_network_that_is_left_decides_as_the_learner(pair: Data) -> None:
    result = run_trial(replace(CONFIG, model=ModelConfig(name="logistic", C=1)), pair)
    logits = result.model(pair.test.x.float() / 255)
    assert logits.argmax(1).tolist() == result.table["clean_prediction"].tolist()
    assert float(F.cross_entropy(logits, pair.test.y)) == pytest.approx(result.metrics["loss/clean"], rel=1e-5)


def test_validation_images_are_set_aside_and_measured(pair: Data) -> None:
    found = run_trial(replace(CONFIG, validation=0.2), pair)
    assert len(found.roles) < len(pair.train)
    assert 0.8 < found.metrics["accuracy/validation"] <= 1


def test_learners_of_one_problem_share_it(pair: Data) -> None:
    first = pose_problem(CONFIG, pair)
    assert pose_problem(replace(CONFIG, model=ModelConfig(name="svm", C=9)), pair) is first
    for other in (replace(CONFIG, seed=5), replace(CONFIG, poison_rate=0.2), replace(CONFIG, validation=0.2)):
        assert pose_problem(other, pair) is not first


def test_one_class_for_every_image_is_an_optimum_here(pair: Data) -> None:
    found = run_trial(replace(CONFIG, model=ModelConfig(name="svm", C=1e-6)), pair)
    assert found.table["clean_prediction"].unique().numel() == 1


def test_settings_that_say_nothing_are_no_parameters() -> None:
    convex, net = CONFIG.params, TrialConfig().params
    assert convex["model.C"] == 1
    assert not [name for name in convex if name.startswith(("train.", "model.width", "model.noise"))]
    assert not [name for name in net if name in ("model.C", "model.gamma", "recipe")]
    assert "ridge C=1 digits[7,1] seed=4" in CONFIG.label
    assert TrialConfig.from_dict(CONFIG.to_dict()) == CONFIG
    whole = replace(CONFIG, model=ModelConfig(name="ridge", C=1.0))
    assert whole.key == CONFIG.key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ModelConfig(name="ridge", C=0)}, "model ridge: C must be above 0 and finite, got 0"),
        ({"model": ModelConfig(name="ridge", C=-1)}, "C must be above 0 and finite, got -1"),
        ({"model": ModelConfig(name="ridge", C=float("inf"))}, "C must be above 0 and finite, got inf"),
        ({"model": ModelConfig(name="ridge")}, "model ridge needs setting C"),
        ({"model": ModelConfig(name="svm_rbf", C=1)}, "svm_rbf needs setting gamma"),
        ({"model": ModelConfig(name="svm", C=1, gamma=2)}, "svm has no setting gamma"),
        ({"model": ModelConfig(name="svm", C=1, width=2)}, "svm has no setting width"),
        ({"model": ModelConfig(name="small_cnn", C=1)}, "small_cnn has no setting C"),
        ({"train": TrainConfig(epochs=3)}, "ridge is solved, not trained: leave train.epochs alone"),
        ({"defence": Oracle()}, "no training that a defence could take over"),
        ({"metrics": (Smoothness(),)}, "metric smoothness measures networks"),
        ({"metrics": (LearningCurves(betas=(0.0, 2.0)),)}, "learning_curves: betas must be in [0, 1], got 2"),
        ({"metrics": (LearningCurves(betas=(0.0,)),)}, "a curve needs a beta above 0"),
        ({"probes": (1,)}, "no epochs to probe"),
        ({"poison_rate": 0.001}, "poisons nobody"),
        ({"attack": replace(PATCH, size=9)}, "does not fit images of 8x8"),
        ({"recipe": "theirs"}, "recipe must be one of raybd, published, got 'theirs'"),
        ({"recipe": "published"}, "are too few"),
        ({"recipe": "published", "attack": BadNets()}, "recipe published has one trigger"),
        ({"recipe": "published", "model": ModelConfig()}, "recipe published is for convex learners"),
        ({"recipe": "published", "validation": 0.1}, "sets no validation images aside"),
    ],
)
def test_what_is_refused_before_any_work(changes: dict[str, object], said: str, pair: Data) -> None:
    with pytest.raises(InputError) as caught:
        check_trial(replace(CONFIG, **changes), pair)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_ten_classes_are_refused(digits: Data) -> None:
    with pytest.raises(InputError, match="ridge tells two classes apart, and digits has 10"):
        check_trial(replace(CONFIG, data="digits"), digits)
