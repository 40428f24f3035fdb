"""VIBE as a defence in trials."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.attacks import ATTACKS
from raybd.defences import DEFENCES, TrainingContext
from raybd.defences.vibe import Vibe, VibeNetwork
from raybd.defences.vibe.encoder import VIEWS
from raybd.defences.vibe.source import TrainableFeatures
from raybd.errors import InputError
from raybd.models import build_model
from raybd.plugins import describe, parse
from raybd.pretraining import PretrainConfig, PretrainResult, default_views
from raybd.training import Checkpoint, TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data, Images

QUICK = Vibe(features="own", tuned=False, iterations=40, e_steps=4, batch_size=64, learning_rate=0.01)
TUNED = replace(QUICK, tuned=True, learning_rate=1e-3)
HOW = TrainConfig(epochs=4, crop=1)


def context(data: Data, defence: Vibe, checkpoint: Checkpoint | None = None, seed: int = 0) -> TrainingContext:
    torch.manual_seed(seed)
    network = defence.network(build_model("small_cnn", data.train.shape, 10, data.mean, data.std))
    images = data.train.take(torch.arange(400))
    return TrainingContext(model=network, images=images, classes=10, train_config=HOW, seed=seed, checkpoint=checkpoint)


@pytest.mark.parametrize("defence", [QUICK, TUNED, replace(TUNED, variant="F", pseudolabels="soft")])
def test_it_yields_every_epoch_and_its_findings(digits: Data, defence: Vibe) -> None:
    at = context(digits, defence)
    epochs = list(defence.train(at))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert [epoch.last for epoch in epochs] == [False, False, False, True]
    assert all(math.isfinite(epoch.loss) for epoch in epochs)
    assert epochs[-1].numbers["vibe/e_steps"] == 4
    assert at.findings["suspicion"].shape == at.findings["flagged"].shape == (400,)
    assert bool(((at.findings["suspicion"] >= 0) & (at.findings["suspicion"] <= 1)).all())
    assert torch.equal(at.findings["flagged"], at.findings["pseudolabel"] != at.images.y)


@pytest.mark.parametrize("defence", [QUICK, TUNED])
def test_a_resumed_training_has_the_same_bits(digits: Data, defence: Vibe, tmp_path: Path) -> None:
    whole = context(digits, defence)
    list(defence.train(whole))
    stopped = context(digits, defence, Checkpoint(tmp_path / "state.pt", every=0))
    epochs: Iterator[object] = defence.train(stopped)
    for _ in range(3):
        next(epochs)
    resumed = context(digits, defence, Checkpoint(tmp_path / "state.pt"), seed=0)
    assert [epoch.number for epoch in defence.train(resumed)] == [3, 4]  # kept once it has been reported
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, found in whole.findings.items():
        assert torch.equal(found, resumed.findings[name]), name


def test_what_the_filter_removes_is_flagged_and_not_learnt(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "raybd.defences.vibe.filter.outliers", lambda v, *_, **__: (torch.arange(len(v)) % 40 == 7).numpy()
    )
    defence = replace(QUICK, outlier_filter="composition")
    at = context(digits, defence)
    last = list(defence.train(at))[-1]
    out = torch.arange(400) % 40 == 7
    assert last.numbers["vibe/removed"] == pytest.approx(0.025)
    assert bool(at.findings["flagged"][out].all())
    assert bool((at.findings["suspicion"][out] == 1).all())
    assert bool((at.findings["pseudolabel"][out] == 10).all())


def test_a_backdoored_trial_is_defended(digits: Data, tmp_path: Path) -> None:
    attack = parse("attack", ATTACKS, "badnets")
    defence = parse("defence", DEFENCES, "vibe:fm_a,pretrain_epochs=30")
    config = TrialConfig(attack=attack, poison_rate=0.1, train=TrainConfig(epochs=2), defence=defence, probes=(2,))
    found = run_trial(config, digits, shared=tmp_path)
    assert found.metrics["attack_success"] <= 0.1
    assert found.metrics["accuracy/clean"] >= 0.85
    assert found.metrics["defence/auroc"] >= 0.95
    assert isinstance(found.model, VibeNetwork)


def test_settings_go_there_and_back() -> None:
    for preset, variant in (("ss_a", "A"), ("ss_f", "F"), ("fm_a", "A"), ("fm_f", "F")):
        made = parse("defence", DEFENCES, f"vibe:{preset}")
        assert isinstance(made, Vibe)
        assert made.variant == variant
        assert made.tuned == preset.startswith("ss")
        assert made.check((1, 8, 8), 10) == []
        assert parse("defence", DEFENCES, describe(DEFENCES, made)) == made


def test_concentrations_follow_the_number_of_classes(digits: Data) -> None:
    network = context(digits, QUICK).model
    assert isinstance(network, VibeNetwork)
    assert (network.heads.kappa, network.heads.nu) == (10.0, 10.0)
    many = QUICK.network(build_model("small_cnn", (1, 8, 8), 100, (0.5,), (0.3,)))
    assert (many.heads.kappa, many.heads.nu) == (20.0, 20.0)
    relative = context(digits, replace(QUICK, kappa_unit="relative")).model
    assert isinstance(relative, VibeNetwork)
    assert (relative.heads.kappa, relative.heads.nu) == (4.0, 3.0)


def test_later_settings_leave_keys_and_encoders_as_they_were() -> None:
    plain = TrialConfig(defence=Vibe())
    later = {"deploy", "kappa_unit", "retrain_epochs", "linear_penalty"} | {f"view_{name}" for name in VIEWS}
    assert not any(name in plain.to_dict()["defence"] for name in later)
    assert Vibe().pretraining("simclr", 80, (1, 8, 8)) == PretrainConfig(epochs=80)
    assert TrialConfig(defence=Vibe(view_noise=0.3)).key != plain.key


def test_views_of_a_setting_are_the_default_ones_but_for_it() -> None:
    grey = default_views((1, 14, 14))
    made = Vibe(view_noise=0.3, view_scale=0.1, view_erase=0.5, view_crop=0.25).views((1, 14, 14))
    assert made == replace(grey, noise=0.3, scale=(0.9, 1.1), erase=7, crop=(0.25, 1.0))
    assert Vibe(view_noise=grey.noise, view_contrast=0).views((1, 14, 14)) is None  # and shares their encoder
    assert Vibe(view_brightness=0.8).views((3, 32, 32)) == replace(default_views((3, 32, 32)), brightness=0.8)


def test_settings_of_self_supervision_reach_the_encoder(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kept(model: object, x: object, config: PretrainConfig, *rest: object) -> PretrainResult:
        asked.append(config)
        return PretrainResult((), 0.0)

    monkeypatch.setattr("raybd.defences.vibe.training.pretrain_once", kept)
    settings = {"temperature": 0.5, "hidden": 32, "projection": 16, "batch_size": 128, "learning_rate": 0.1}
    given: dict[str, Any] = {f"pretrain_{name}": value for name, value in settings.items()}
    defence = replace(QUICK, features="nnclr", pretrain_epochs=3, view_noise=0.3, **given)
    list(defence.train(context(digits, defence)))
    views = replace(default_views((1, 8, 8)), noise=0.3)
    assert asked == [PretrainConfig(method="nnclr", epochs=3, views=views, **settings)]


def test_bad_settings_are_told_all_at_once() -> None:
    bad = Vibe(sharpness=0, kappa=-1, nu=-1, e_steps=0, variant="B", unassigned=1.0)  # type: ignore[arg-type]
    found = "\n".join(bad.check((1, 8, 8), 1))
    for part in (
        "sharpness",
        "kappa",
        "nu must be at least 0",
        "e_steps",
        "variant",
        "unassigned",
        "2 classes",
    ):
        assert part in found


def test_a_class_without_images_is_refused_before_anything_is_learnt(digits: Data) -> None:
    at = context(digits, replace(QUICK, features="simclr"))
    left = at.images.y != 4
    with pytest.raises(InputError, match="none has 4"):
        next(iter(QUICK.train(replace(at, images=Images(at.images.x[left], at.images.y[left])))))


def test_every_epoch_augments_anew(digits: Data) -> None:
    at = context(digits, TUNED)
    assert isinstance(at.model, VibeNetwork)
    source, index = TrainableFeatures(at.model, at.images, HOW, 0, lambda: None), torch.arange(32)
    seen = []
    for epoch in (1, 2, 1):
        source.begin(epoch)
        seen.append(source.batch(index).detach())
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("defence", "expected"), [(QUICK, 1 / 3), (TUNED, 40 / 7 + 6 / 3)])
def test_what_it_costs_is_what_went_through_the_backbone(digits: Data, defence: Vibe, expected: float) -> None:
    """Frozen: every image once, forward. Tuned: 40 batches of a seventh; forward to begin, for 4 E-steps, to report."""
    last = list(defence.train(context(digits, defence)))[-1]
    assert last.numbers["defence/passes"] + 4 == pytest.approx(expected, abs=0.05)
    assert last.numbers["defence/seconds"] > 0
    assert last.numbers["defence/extra_images"] == 0
