"""Clean twins: trained once, the same network that a trial without poison trains, and never in the way of another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raybd.attacks import BadNets, Blended
from raybd.errors import DivergedError
from raybd.metrics import METRICS, Accuracy
from raybd.metrics.smoothness import Smoothness
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.twins import twin_of
from raybd.trials.validate import problems
from raybd.types import Data, Report
from raybd.utils.cache import load_tensors

QUICK = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(width=0.25), poison_rate=0.0, probes=(1, 3))


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "seconds/trial"}


def test_a_trial_without_poison_is_the_same_with_and_without_shared_twins(digits: Data, tmp_path: Path) -> None:
    alone, shared = [], []
    config = replace(QUICK, metrics=(METRICS["stealth"](),))  # gradients feel the layout of the weights
    plain = run_trial(config, digits, alone.append)
    for _ in range(2):  # the one that trains, and one that replays
        shared.clear()
        again = run_trial(config, digits, shared.append, shared=tmp_path)
        assert timeless(again.metrics) == timeless(plain.metrics)
        assert [w.stride() for w in again.model.parameters()] == [w.stride() for w in plain.model.parameters()]
        pairs = zip(plain.model.state_dict().values(), again.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert [(r.epoch, timeless(r.metrics)) for r in shared] == [(r.epoch, timeless(r.metrics)) for r in alone]


def test_a_twin_is_trained_once_for_all_attacks(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    from raybd.defences.none import fit as real

    def counting(*args: object) -> object:
        trained.append(1)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("raybd.defences.none.fit", counting)
    for attack in (BadNets(), Blended(), BadNets(target=3)):
        run_trial(replace(QUICK, attack=attack), digits, shared=tmp_path)
    assert len(trained) == 1
    run_trial(replace(QUICK, seed=1), digits, shared=tmp_path)
    assert len(trained) == 2


def test_twins_do_not_depend_on_what_is_measured_or_planted() -> None:
    config = replace(QUICK, poison_rate=0.1, metrics=(Smoothness(),))
    assert twin_of(config).key == twin_of(replace(config, attack=Blended(), metrics=(), poison_rate=0.2)).key
    assert twin_of(config).key != twin_of(replace(config, model=ModelConfig(width=0.5))).key


def test_an_interrupted_twin_goes_on(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.training.Checkpoint.save", _save_always)
    config = replace(QUICK, train=TrainConfig(epochs=4), probes=(1, 4))
    whole = run_trial(config, digits)
    heartbeats: list[int] = []

    def stop() -> None:
        heartbeats.append(1)
        if len(heartbeats) == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_trial(config, digits, shared=tmp_path, heartbeat=stop)
    reports: list[Report] = []
    resumed = run_trial(config, digits, reports.append, shared=tmp_path)
    assert [r.epoch for r in reports] == [1, 2, 3, 4]
    assert timeless(resumed.metrics) == timeless(whole.metrics)


def test_a_twin_with_broken_weights_is_trained_anew(
    digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_trial(QUICK, digits, shared=tmp_path)
    [file] = tmp_path.glob("twins/*/1.pt")
    whole = load_tensors(file)
    file.write_bytes(file.read_bytes()[:-1])
    run_trial(replace(QUICK, attack=Blended()), digits, shared=tmp_path)
    assert "computed anew" in caplog.text
    assert all(torch.equal(whole[name], value) for name, value in load_tensors(file).items())


def test_metrics_that_compare_get_the_twin_of_the_same_epoch(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Looking(Accuracy):
        needs_twin = True

        def measure(self, context):  # type: ignore[no-untyped-def]
            assert context.twin is not None
            seen.append((context.epoch, context.twin.state_dict()["head.weight"].clone(), context.model))
            return {}

    monkeypatch.setitem(METRICS, "looking", Looking)
    config = replace(QUICK, poison_rate=0.1, metrics=(Looking(),))
    run_trial(config, digits, shared=tmp_path)
    [twin] = (tmp_path / "twins").iterdir()
    for epoch, weight, _ in seen:
        assert torch.equal(weight, torch.load(twin / f"{epoch}.pt")["head.weight"])
    assert [epoch for epoch, _, _ in seen] == [1, 3]
    assert not torch.equal(seen[-1][1], seen[-1][2].state_dict()["head.weight"])


def _save_always(self, state) -> None:  # type: ignore[no-untyped-def]
    torch.save(state, self.path)


def test_patience_and_twins_do_not_go_together() -> None:
    config = replace(QUICK, train=TrainConfig(patience=2), metrics=(METRICS["stealthiness"](),))
    assert problems(config) == ["patience would part a trial from its clean twin, and stealthiness compare them"]


def test_a_twin_that_diverges_says_that_it_is_the_twin(digits: Data, tmp_path: Path) -> None:
    train_config = TrainConfig(epochs=2, learning_rate=1e6, schedule="constant")
    with pytest.raises(DivergedError, match="the clean twin: the training loss is"):
        run_trial(replace(QUICK, train=train_config, probes=()), digits, shared=tmp_path)
