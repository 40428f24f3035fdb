"""What VIBE deploys: the paper's head, a linear head on its features, or the trial's network trained on its labels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from raybd.attacks import parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.defences import TrainingContext
from raybd.defences.vibe import Vibe, VibeNetwork
from raybd.defences.vibe.heads import LinearNetwork
from raybd.defences.vibe.retraining import Relabelled, Spread
from raybd.defences.vibe.training import EmTraining
from raybd.models import build_model
from raybd.pretraining import embed
from raybd.training import Checkpoint, Epoch, TrainConfig, fit
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data, Images

QUICK = Vibe(features="own", tuned=False, iterations=40, e_steps=4, batch_size=64, learning_rate=0.01, deploy="linear")
RETRAINED = replace(QUICK, deploy="retrained")
HOW = TrainConfig(epochs=4, crop=1)


def context(data: Data, defence: Vibe, checkpoint: Checkpoint | None = None) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, width=0.5)
    images = data.train.take(torch.arange(400))
    network = defence.network(model)
    return TrainingContext(model=network, images=images, classes=10, train_config=HOW, seed=0, checkpoint=checkpoint)


@pytest.mark.parametrize("tuned", [False, True])
def test_a_linear_head_is_scikit_learns_of_the_pseudolabels(digits: Data, tuned: bool) -> None:
    at = context(digits, replace(QUICK, tuned=tuned, learning_rate=1e-3))
    epochs = list(replace(QUICK, tuned=tuned, learning_rate=1e-3).train(at))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert isinstance(at.model, LinearNetwork)
    v = StandardScaler().fit_transform(embed(at.model.backbone, at.images.x).double().numpy())
    theirs = LogisticRegression(C=1 / (400 * 1e-3), tol=1e-8, max_iter=5000).fit(v, at.findings["pseudolabel"].numpy())
    with torch.no_grad():
        ours = at.model.eval()(at.images.x / 255).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(v)).max() < 5e-3
    linear = at.model.head(at.model.features(at.model.normalise(at.images.x / 255)))
    assert torch.allclose(at.model(at.images.x / 255), linear)


def test_a_retrained_network_is_the_ordinary_one_on_the_pseudolabels(digits: Data) -> None:
    at = context(digits, RETRAINED)
    epochs = list(RETRAINED.train(at))
    assert [(epoch.number, epoch.last) for epoch in epochs] == [(1, False), (2, False), (3, False), (4, True)]
    assert not isinstance(at.model, VibeNetwork)
    plain = context(digits, RETRAINED)
    relabelled = Images(at.images.x, at.findings["pseudolabel"])
    losses = [epoch.loss for epoch in fit(plain.model, relabelled, HOW, 0)]
    assert [epoch.loss for epoch in epochs] == losses
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, at.model.state_dict()[name]), name


def test_all_three_deploy_what_the_same_em_found(digits: Data) -> None:
    found = []
    for deploy in ("head", "linear", "retrained"):
        defence = replace(QUICK, deploy=deploy)
        at = context(digits, defence)
        last = list(defence.train(at))[-1]
        found.append((at.findings, {k: v for k, v in last.numbers.items() if k.startswith("vibe/")}))
    for findings, numbers in found[1:]:
        assert numbers == found[0][1]
        assert all(torch.equal(value, found[0][0][name]) for name, value in findings.items())


@pytest.mark.parametrize("defence", [QUICK, replace(QUICK, tuned=True, learning_rate=1e-3), RETRAINED])
def test_a_resumed_training_has_the_same_bits(digits: Data, defence: Vibe, tmp_path: Path) -> None:
    whole = context(digits, defence)
    epochs = list(defence.train(whole))
    stopped = context(digits, defence, Checkpoint(tmp_path / "state.pt", every=0))
    running: Iterator[Epoch] = defence.train(stopped)
    for _ in range(3):
        next(running)
    resumed = context(digits, defence, Checkpoint(tmp_path / "state.pt"))
    again = list(defence.train(resumed))
    assert [epoch.number for epoch in again] == [3, 4]  # kept once it has been reported
    same(whole, resumed)
    embedded = 0 if defence is RETRAINED else 1 / 3  # its features, once more
    assert 0 <= again[-1].numbers["defence/passes"] - epochs[-1].numbers["defence/passes"] <= embedded + 1e-9


def test_a_training_that_is_stopped_before_it_is_retrained_has_the_same_bits(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = context(digits, RETRAINED)
    list(RETRAINED.train(whole))
    stopped = context(digits, RETRAINED, Checkpoint(tmp_path / "state.pt", every=0))
    real, done = EmTraining.epoch, []

    def dies(training: EmTraining, number: int) -> float:
        done.append(number)
        if number == 3:
            raise MemoryError
        return real(training, number)

    with monkeypatch.context() as patched:
        patched.setattr(EmTraining, "epoch", dies)
        with pytest.raises(MemoryError):
            list(RETRAINED.train(stopped))
    saved = Checkpoint(tmp_path / "state.pt").load()
    assert saved is not None
    assert (saved["epoch"], saved["first"]["epoch"]) == (0, 2)  # none was reported
    resumed = context(digits, RETRAINED, Checkpoint(tmp_path / "state.pt"))
    assert len(list(RETRAINED.train(resumed))) == 4
    same(whole, resumed)


def same(one: TrainingContext, other: TrainingContext) -> None:
    """Check that weights and findings are equal to the bit."""
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert one.findings.keys() == other.findings.keys()
    for name, found in one.findings.items():
        assert torch.equal(found, other.findings[name]), name


def test_another_number_of_epochs_is_spread_over_the_trials(digits: Data, tmp_path: Path) -> None:
    for count, reported in ((6, [2, 3, 5, 6]), (2, [1, 1, 2, 2])):
        defence = replace(RETRAINED, retrain_epochs=count)
        at = context(digits, defence, Checkpoint(tmp_path / f"{count}.pt", every=0))
        epochs = list(defence.train(at))
        plain = context(digits, defence)
        relabelled = Images(at.images.x, at.findings["pseudolabel"])
        inner = [epoch.loss for epoch in fit(plain.model, relabelled, replace(HOW, epochs=count), 0)]
        assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
        assert [epoch.last for epoch in epochs] == [False] * 3 + [True]
        assert [epoch.loss for epoch in epochs] == [inner[number - 1] for number in reported]
        for name, value in plain.model.state_dict().items():
            assert torch.equal(value, at.model.state_dict()[name]), name
        again = context(digits, defence, Checkpoint(tmp_path / f"{count}.pt"))
        assert list(defence.train(again))[-1].last
        same(at, again)


@pytest.mark.parametrize("trained", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("reported", [1, 3, 4, 10])
def test_every_epoch_of_a_trial_is_reported_once(trained: int, reported: int) -> None:
    spread = Spread(trained, reported)
    due = [spread.due(Epoch(n, 0.0, n == trained)) for n in range(1, trained + 1)]
    assert [k for part in due for k in part] == list(range(1, reported + 1))
    for n, part in enumerate(due, start=1):
        assert all((n - 1) * reported < k * trained <= n * reported for k in part)
        assert spread.done(n) == (part[-1] if part else spread.done(n - 1))


def test_a_training_that_ends_early_is_reported_to_its_end() -> None:
    assert list(Spread(20, 4).due(Epoch(2, 0.0, last=True))) == [1]
    assert list(Spread(4, 4).due(Epoch(2, 0.0, last=True))) == [2]


def test_images_that_no_class_explains_get_the_label_of_their_content(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[Images] = []

    def spied(model: nn.Module, images: Images, *rest: Any) -> Iterator[Epoch]:
        taught.append(images)
        return fit(model, images, *rest)

    monkeypatch.setattr("raybd.defences.vibe.retraining.fit", spied)
    defence = replace(RETRAINED, unassigned=0.2)
    at = context(digits, defence)
    list(defence.train(at))
    found = at.findings["pseudolabel"]
    spare = found == 10
    assert int(spare.sum()) == pytest.approx(80, abs=2)
    assert torch.equal(taught[0].y[~spare], found[~spare])
    assert len(taught[0]) == 400
    assert int(taught[0].y.max()) < 10
    assert at.networks["encoder"] is not at.model


def test_an_attacker_who_renews_the_images_changes_pixels_and_no_labels(digits: Data) -> None:
    poisoned = PoisonSpec(parse("wanet:each_epoch=true"), 0.2, 0).poison(digits.train, 10).images
    labels = torch.randint(0, 10, (len(poisoned),))
    made = Relabelled(poisoned.x, labels, poisoned)
    assert not torch.equal(made.at(2).x, made.at(1).x)
    assert torch.equal(made.at(2).x, poisoned.at(2).x)
    assert torch.equal(made.at(2).y, labels)
    still = Relabelled(digits.train.x, labels, digits.train)
    assert still.at(2) is still


@pytest.fixture(scope="module")
def defended(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of trials against one attack by what is deployed; they share an encoder."""
    shared = tmp_path_factory.mktemp("shared")
    frozen = Vibe(tuned=False, pretrain_epochs=20, iterations=1000, learning_rate=0.01)
    defence = replace(frozen, view_noise=0.3, kappa=40, nu=30)
    config = TrialConfig(attack=parse("blended"), poison_rate=0.1, train=TrainConfig(epochs=12), probes=(12,))
    config = replace(config, model=ModelConfig(width=0.5))
    trials = {
        deploy: replace(config, defence=replace(defence, deploy=deploy)) for deploy in ("head", "linear", "retrained")
    }
    found = {deploy: run_trial(trial, digits, shared=shared) for deploy, trial in trials.items()}
    return found | {"none": run_trial(config, digits)}


def test_every_kind_keeps_the_backdoor_out_and_the_retrained_one_keeps_accuracy(defended: dict[str, Any]) -> None:
    undefended = defended["none"]
    assert undefended.metrics["attack_success"] > 0.9
    for deploy in ("head", "linear", "retrained"):
        assert defended[deploy].metrics["attack_success"] <= 0.05
    assert defended["retrained"].metrics["accuracy/clean"] >= undefended.metrics["accuracy/clean"] - 0.02


def test_three_numbers_stand_before_any_table(defended: dict[str, Any]) -> None:
    for deploy in ("head", "linear", "retrained"):
        metrics, arrays = defended[deploy].metrics, defended[deploy].arrays
        assert metrics["vibe/probe_accuracy"] > 0.9
        assert metrics["vibe/first_right"] > 0.5
        assert metrics["vibe/poison_kept"] * 130 == pytest.approx(metrics["vibe/poison_kept_count"], abs=1e-3)
        assert metrics["vibe/kappa"] == 40.0
        assert arrays["defence/first_pseudolabel"].shape == arrays["defence/pseudolabel"].shape
    assert defended["head"].metrics["vibe/probe_accuracy"] == defended["retrained"].metrics["vibe/probe_accuracy"]
