"""Defences that take over the training: what each yields, keeps, says and refuses, and how it resumes."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from raybd.defences import DEFENCES, Defence, TrainingContext
from raybd.defences.base import FLAGGED, SUSPICION
from raybd.defences.cbd import Cbd
from raybd.defences.cost import Cost
from raybd.defences.dbd import Dbd
from raybd.defences.filtering import Filter, FilterResult
from raybd.defences.nab import Nab
from raybd.defences.regularised import Regularised
from raybd.defences.spectral import Spectral
from raybd.defences.vibe import Vibe
from raybd.errors import InputError
from raybd.models import Classifier, build_model
from raybd.plugins import build, describe, parse
from raybd.training import Checkpoint, Epoch, TrainConfig, fit
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data

QUICK = {
    "abl": "abl:early=0.3",
    "activation_clustering": "activation_clustering",
    "asd": "asd:seeds=2,added=3",
    "augmented": 'augmented:kind="both"',
    "cbd": "cbd:early=0.5",
    "dbd": "dbd:pretrain_epochs=2",
    "nab": "nab:pretrain_epochs=2",
    "pdb": "pdb",
    "regularised": "regularised",
    "regularised_longer": "regularised:epochs=1.7",
    "regularised_shorter": "regularised:epochs=0.5",
    "scan": "scan",
    "spectral": "spectral:first_epochs=2",
}
RANKING = {"abl", "activation_clustering", "asd", "cbd", "dbd", "nab", "scan", "spectral"}
HOW = TrainConfig(epochs=4, crop=1)


def quick(name: str) -> Defence:
    return parse("defence", DEFENCES, QUICK[name])


def context(data: Data, defence: Defence, checkpoint: Checkpoint | None = None, seed: int = 0) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, width=0.25)
    images, trusted = data.train.take(torch.arange(300)), data.train.take(torch.arange(400, 500))
    return TrainingContext(
        model=defence.network(model),
        images=images,
        classes=10,
        train_config=HOW,
        seed=seed,
        checkpoint=checkpoint,
        trusted=trusted if defence.access == "clean images" else None,
    )


def same(first: TrainingContext, second: TrainingContext) -> bool:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    found = set(first.findings) == set(second.findings) and all(
        torch.equal(value, second.findings[name]) for name, value in first.findings.items()
    )
    return found and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("name", QUICK)
def test_it_yields_every_epoch_with_its_costs_and_findings(digits: Data, name: str) -> None:
    at = context(digits, quick(name))
    epochs = list(quick(name).train(at))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert [epoch.last for epoch in epochs] == [False, False, False, True]
    assert all(math.isfinite(epoch.loss) for epoch in epochs)
    assert {"defence/passes", "defence/seconds", "defence/extra_images"} <= set(epochs[-1].numbers)
    assert (SUSPICION in at.findings) == (name in RANKING)
    assert (FLAGGED in at.findings) == (name in RANKING - {"cbd"})  # which weighs, and flags none
    if name in RANKING:
        assert at.findings[SUSPICION].is_floating_point()
        assert at.findings[SUSPICION].shape == (300,)
        assert bool(at.findings[SUSPICION].isfinite().all())
    if FLAGGED in at.findings:
        assert at.findings[FLAGGED].dtype == torch.bool
        assert at.findings[FLAGGED].shape == (300,)


@pytest.mark.parametrize("name", QUICK)
def test_the_seed_decides_and_a_resumed_training_has_the_same_bits(digits: Data, name: str, tmp_path: Path) -> None:
    whole = context(digits, quick(name))
    list(quick(name).train(whole))
    stopped = context(digits, quick(name), Checkpoint(tmp_path / "state.pt", every=0))
    epochs: Iterator[Epoch] = quick(name).train(stopped)
    for _ in range(3):
        next(epochs)
    resumed = context(digits, quick(name), Checkpoint(tmp_path / "state.pt"))
    kept = Checkpoint(tmp_path / "state.pt").load()
    assert kept is not None
    numbers = [epoch.number for epoch in quick(name).train(resumed)]
    assert numbers == list(range(kept["epoch"] + 1, 5))
    assert same(whole, resumed)
    other = context(digits, quick(name), seed=1)
    list(quick(name).train(other))
    assert not same(whole, other)


@pytest.mark.parametrize("defence", [Spectral(first_epochs=6), Cbd(early=0.99)])
def test_a_first_training_resumes_too(digits: Data, tmp_path: Path, defence: Defence) -> None:
    """Each life ends at its fourth heartbeat: none sees the whole of the first training."""
    whole, path = context(digits, defence), tmp_path / "state.pt"
    wanted = [epoch.numbers["defence/passes"] for epoch in defence.train(whole)]

    def life() -> tuple[TrainingContext, list[float]] | None:
        beats: list[int] = []

        def beat() -> None:
            beats.append(1)
            if len(beats) == 4:
                raise KeyboardInterrupt

        at = replace(context(digits, defence, Checkpoint(path, every=0)), heartbeat=beat)
        try:
            return at, [epoch.numbers["defence/passes"] for epoch in defence.train(at)]
        except KeyboardInterrupt:
            return None

    ended = next(ended for ended in (life() for _ in range(9)) if ended)
    assert same(whole, ended[0])
    assert ended[1][-1] == wanted[-1]


def test_regularised_trains_as_the_plain_loop_does_under_other_settings(digits: Data) -> None:
    own, usual = context(digits, Regularised()), context(digits, Regularised())
    defence = Regularised(weight_decay=10, learning_rate=0.5, epochs=1.5)
    epochs = list(defence.train(own))
    train_config = replace(HOW, weight_decay=5e-3, learning_rate=0.05, epochs=6)
    losses = [epoch.loss for epoch in fit(usual.model, usual.images, train_config, 0)]
    assert same(own, usual)
    assert [epoch.loss for epoch in epochs] == [losses[1], losses[2], losses[4], losses[5]]
    assert epochs[-1].numbers["defence/passes"] == 2


def test_the_deployed_network_of_a_filter_was_trained_on_the_rest_alone(digits: Data) -> None:
    at, rest = context(digits, Spectral()), context(digits, Spectral())
    epochs = list(Spectral().train(at))
    list(fit(rest.model, rest.images.take(~at.findings[FLAGGED]), HOW, 0))
    assert same(replace(at, findings={}), rest)
    assert epochs[-1].numbers["defence/removed"] == pytest.approx(float(at.findings[FLAGGED].float().mean()))


def test_a_filter_that_suspects_a_whole_class_leaves_it(digits: Data) -> None:
    class Zealous(Filter):
        def detect(self, context: TrainingContext, network: Classifier) -> FilterResult:
            y = context.images.y
            return FilterResult(y.double(), (y == 3) | (torch.arange(len(y)) % 10 == 0))

    at = context(digits, Zealous(first_epochs=1))
    last = list(Zealous(first_epochs=1).train(at))[-1]
    assert last.numbers["defence/spared_classes"] == 1
    assert not at.findings[FLAGGED][at.images.y == 3].any()
    assert at.findings[FLAGGED].any()


def test_one_encoder_serves_dbd_nab_and_vibe(digits: Data, tmp_path: Path) -> None:
    dbd, nab, vibe = Dbd(), Nab(), Vibe()
    assert dbd.pretrain_epochs == nab.pretrain_epochs == vibe.pretrain_epochs
    short = replace(dbd, pretrain_epochs=2), replace(nab, pretrain_epochs=2)
    for defence in (*short, replace(vibe, pretrain_epochs=2, iterations=4, e_steps=1)):
        next(iter(defence.train(replace(context(digits, defence), cache_folder=tmp_path))))
    assert len(list((tmp_path / "encoders").glob("*.pt"))) == 1


@pytest.mark.parametrize("name", ["activation_clustering", "cbd", "dbd", "nab", "pdb", "scan", "spectral"])
def test_a_network_that_does_not_tell_its_features_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="Classifier"):
        quick(name).network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@pytest.mark.parametrize("name", ["asd", "scan"])
def test_missing_clean_images_are_told(digits: Data, name: str) -> None:
    at = context(digits, quick(name))
    with pytest.raises(InputError, match="set some aside"):
        next(iter(quick(name).train(replace(at, trusted=None))))
    assert at.trusted is not None
    with pytest.raises(InputError, match=r"none of \[7\]"):
        next(iter(quick(name).train(replace(at, trusted=at.trusted.take(at.trusted.y != 7)))))


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("abl", {"gamma": 0.0, "isolation": 1.0, "early": 0.0, "late": 1.0, "unlearning_rate": -1.0}),
        ("activation_clustering", {"first_epochs": -1, "components": 0, "silhouette": 1.0}),
        ("asd", {"seeds": 0, "added": 0, "believed": 1.0, "virtual_rate": 0.0, "temperature": 0.0}),
        ("augmented", {"kind": "cutmix", "alpha": 0.0, "hole": 1.5}),
        ("cbd", {"early": 0.0, "disentangle": -1.0, "critic_rate": 0.0}),
        ("nab", {"detection": "lna", "isolation": 0.0, "gamma": 0.0, "early": 1.0, "excluded": 1.0, "side": 0.0}),
        ("pdb", {"budget": 0.0, "repeats": 0, "side": 1.5, "value": -1.0, "darker": 1.5, "degrees": -1.0}),
        ("dbd", {"pretrain_epochs": 0, "head_epochs": 0, "head_rate": 0.0, "credible": 1.0, "unlabelled": -1.0}),
        ("regularised", {"weight_decay": -1.0, "learning_rate": 0.0, "epochs": 0.0}),
        ("scan", {"first_epochs": -1, "ridge": 0.0}),
        ("spectral", {"first_epochs": -1, "epsilon": 0.7}),
    ],
)
def test_bad_settings_are_told_all_at_once(name: str, bad: dict[str, object]) -> None:
    usual = build("defence", DEFENCES, {"name": name})
    assert usual.check((1, 8, 8), 10) == []
    assert parse("defence", DEFENCES, describe(DEFENCES, usual)) == usual
    found = "\n".join(replace(usual, **bad).check((1, 8, 8), 10))
    assert all(key in found for key in bad)
    config = TrialConfig(defence=replace(usual, **bad), model=ModelConfig(width=0.25))
    assert config.defence.check((1, 8, 8), 10)


def test_settings_are_refused_before_a_trial_begins(digits: Data) -> None:
    with pytest.raises(InputError, match=r"epsilon must be in \(0, 0.666667\), got 0.9"):
        run_trial(TrialConfig(defence=Spectral(epsilon=0.9)), digits)


def test_the_meter_counts_on_where_it_was() -> None:
    cost = Cost({"passes": 5.0, "seconds": 100.0}, extra=3)
    cost.passes += 1
    numbers = cost.numbers(2)
    assert numbers["defence/passes"] == 4
    assert 100 <= numbers["defence/seconds"] < 101
    assert numbers["defence/extra_images"] == 3
