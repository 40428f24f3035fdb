"""The three numbers that say, with the truth, where VIBE loses accuracy or the defence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from raybd.attacks import NoAttack
from raybd.defences import TrainingContext
from raybd.defences.vibe import Vibe
from raybd.defences.vibe.truth import probe_accuracy, relabelling
from raybd.models import Classifier, build_model
from raybd.pretraining import embed
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import COVER, POISON, Data, Images, Poisoned

QUICK = Vibe(features="own", tuned=False, iterations=20, e_steps=2)


def context(data: Data) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, width=0.5)
    return TrainingContext(model=model, images=data.train, classes=10, train_config=TrainConfig(epochs=1), seed=0)


def test_a_probe_is_as_accurate_as_scikit_learns(digits: Data) -> None:
    at = context(digits)
    encoder = at.model
    assert isinstance(encoder, Classifier)
    assert probe_accuracy(at, digits.train.y, digits.test) == {}  # nothing was handed over
    at.networks["encoder"] = encoder
    found = probe_accuracy(at, digits.train.y, digits.test)
    scaler = StandardScaler().fit(embed(encoder, digits.train.x).double().numpy())
    theirs = LogisticRegression(C=1 / (len(digits.train) * 1e-3), max_iter=5000)
    theirs.fit(scaler.transform(embed(encoder, digits.train.x).double().numpy()), digits.train.y.numpy())
    score = theirs.score(scaler.transform(embed(encoder, digits.test.x).double().numpy()), digits.test.y.numpy())
    assert found["vibe/probe_accuracy"] == pytest.approx(score, abs=2.5 / len(digits.test))
    wrong = probe_accuracy(at, digits.train.y[torch.randperm(len(digits.train))], digits.test)
    assert wrong["vibe/probe_accuracy"] < 0.4


def test_what_became_of_the_poison_is_counted(digits: Data) -> None:
    at = context(digits)
    true, given = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 0, 0, 0, 5, 6])
    roles = torch.tensor([POISON, POISON, POISON, POISON, COVER, 0], dtype=torch.uint8)
    poisoned = Poisoned(Images(digits.train.x[:6], given), roles, true, torch.zeros(6, dtype=torch.uint8), ())
    assert relabelling(at, poisoned) == {}  # of a defence that gives no labels
    at.findings["first_pseudolabel"] = torch.tensor([1, 2, 0, 10, 5, 6])
    at.findings["pseudolabel"] = torch.tensor([1, 0, 0, 0, 0, 0])
    expected = {"vibe/first_right": 0.5, "vibe/poison_kept": 0.75, "vibe/poison_kept_count": 3.0}
    assert relabelling(at, poisoned) == expected
    assert relabelling(at, replace(poisoned, roles=torch.zeros(6, dtype=torch.uint8))) == {}


def test_a_clean_trial_says_what_its_features_tell_when_it_is_replayed_too(digits: Data, tmp_path: Path) -> None:
    config = TrialConfig(attack=NoAttack(), poison_rate=0.0, train=TrainConfig(epochs=1), model=ModelConfig(width=0.25))
    for deploy in ("head", "retrained"):
        trial = replace(config, defence=replace(QUICK, deploy=deploy))  # type: ignore[arg-type]
        first, again = (run_trial(trial, digits, shared=tmp_path).metrics for _ in range(2))
        assert 0.3 < first["vibe/probe_accuracy"] == again["vibe/probe_accuracy"]
        assert "vibe/first_right" not in first
