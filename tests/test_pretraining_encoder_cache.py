"""Encoders in a cache: trained once for all that ask for the same one, and resumed where a process died."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raybd.models import Classifier
from raybd.pretraining import PretrainResult, pretrain, pretrain_once
from raybd.pretraining.encoder_cache import encoder_key
from raybd.seeds import stream
from raybd.training import Checkpoint
from raybd.utils.cache import load_tensors
from tests.conftest import made_images
from tests.test_pretraining import QUICK, fresh, same

X = made_images(50).x


@pytest.fixture(name="starts")
def _starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each training."""
    starts: list[int] = []

    def counting(*args: object, **settings: object) -> PretrainResult:
        starts.append(1)
        return pretrain(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("raybd.pretraining.encoder_cache.pretrain", counting)
    return starts


def files(folder: Path) -> list[Path]:
    return sorted((folder / "encoders").glob("*.pt"))


def test_the_second_loads_what_the_first_has_trained(tmp_path: Path, starts: list[int]) -> None:
    alone, first, second = fresh(), fresh(), fresh()
    second.head.weight.data += 1
    result = pretrain(alone, X, QUICK, 0)
    trained = pretrain_once(first, X, QUICK, 0, tmp_path)
    loaded = pretrain_once(second, X, QUICK, 0, tmp_path)
    assert len(starts) == 1
    assert same(first, alone)
    assert trained.losses == loaded.losses == result.losses
    assert loaded.seconds == trained.seconds > 0
    assert (trained.reused, loaded.reused) == (False, True)
    assert torch.equal(second.head.weight, first.head.weight + 1)
    second.head.load_state_dict(first.head.state_dict())
    assert same(second, first)
    assert not second.training
    [file] = files(tmp_path)  # and no checkpoint
    assert load_tensors(file)["seconds"] == trained.seconds


def test_without_a_cache_it_is_trained_for_the_caller(starts: list[int]) -> None:
    one, other = fresh(), fresh()
    assert not pretrain_once(one, X, QUICK, 0).reused
    assert not pretrain_once(other, X, QUICK, 0).reused
    assert len(starts) == 2
    assert same(one, other)


def test_a_key_is_of_everything_that_decides_and_nothing_else() -> None:
    base = encoder_key(fresh(), X, QUICK, 0)
    other_head = fresh()
    other_head.head.weight.data += 1
    pixel = X.clone()
    pixel[3, 0, 2, 2] += 1
    assert encoder_key(other_head, X.clone(), replace(QUICK), 0) == base
    others = [
        encoder_key(fresh(seed=1), X, QUICK, 0),
        encoder_key(fresh(), pixel, QUICK, 0),
        encoder_key(fresh(), X.flip(0), QUICK, 0),
        encoder_key(fresh(), X, replace(QUICK, temperature=0.3), 0),
        encoder_key(fresh(), X, QUICK, 1),
        encoder_key(fresh((3, 8, 8)), X, QUICK, 0),
    ]
    assert len({base, *others}) == 7


def test_it_is_resumed_from_the_checkpoint_of_a_process_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Checkpoint.save

    def at_once(self: Checkpoint, state: dict[str, object]) -> None:
        self.every = 0
        usual(self, state)

    monkeypatch.setattr(Checkpoint, "save", at_once)
    heartbeats: list[int] = []

    def heartbeat() -> None:
        heartbeats.append(1)
        if len(heartbeats) == 2:
            raise KeyboardInterrupt

    broken, resumed, whole = fresh(), fresh(), fresh()
    with pytest.raises(KeyboardInterrupt):
        pretrain_once(broken, X, QUICK, 0, tmp_path, heartbeat)
    result = pretrain_once(resumed, X, QUICK, 0, tmp_path, heartbeat)
    assert len(heartbeats) == QUICK.epochs
    assert result.losses == pretrain(whole, X, QUICK, 0).losses
    assert same(resumed, whole)


def test_a_broken_encoder_is_trained_anew_from_the_first_weights(
    tmp_path: Path, starts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    first, again = fresh(), fresh()
    pretrain_once(first, X, QUICK, 0, tmp_path)
    [file] = files(tmp_path)
    torch.save({"weights": {"mean": torch.zeros(1, 1, 1, 1)}}, file)
    assert not pretrain_once(again, X, QUICK, 0, tmp_path).reused
    assert "computed anew" in caplog.text
    assert same(first, again)
    assert len(starts) == 2


def _poisoned(rate: float) -> torch.Tensor:
    x = X.clone()
    x[torch.randperm(50, generator=stream(0, "victims"))[: int(rate * 50)], :, -2:, -2:] = 255
    return x


def test_every_poisoned_set_has_its_own_encoder_and_every_defence_the_same(tmp_path: Path, starts: list[int]) -> None:
    models: list[Classifier] = []
    for rate in (0.0, 0.1, 0.1, 0.0):
        models.append(fresh())
        pretrain_once(models[-1], _poisoned(rate), QUICK, 0, tmp_path)
    assert len(starts) == 2
    assert same(models[1], models[2])
    assert same(models[0], models[3])
    assert not same(models[0], models[1])
