"""Encoders that are kept: trained once whoever comes, and never in the way where they cannot be."""

import json
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.models import Classifier
from raybd.pretraining import Pretrained, encoder, pretrain
from raybd.pretraining.encoder_cache import recipe
from raybd.seeds import stream
from raybd.training import Checkpoint
from tests.conftest import made_images
from tests.test_pretraining import QUICK, fresh, same

X = made_images(50).x
SLOW = replace(QUICK, epochs=40)
FORK = multiprocessing.get_context("fork")


@pytest.fixture(name="starts")
def _starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that holds one letter for each training, of any process."""
    file = tmp_path / "starts"

    def counting(*args: object, **settings: object) -> Pretrained:
        with file.open("a") as stream:
            stream.write("x")
        return pretrain(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("raybd.pretraining.encoder_cache.pretrain", counting)
    return file


def kept(cache_folder: Path) -> Path:
    [folder] = (cache_folder / "encoders").iterdir()
    return folder


def test_the_second_takes_what_the_first_has_trained(tmp_path: Path, starts: Path) -> None:
    alone, first, second = fresh(), fresh(), fresh()
    second.head.weight.data += 1
    spent = pretrain(alone, X, QUICK, 0)
    trained = encoder(first, X, QUICK, 0, tmp_path)
    taken = encoder(second, X, QUICK, 0, tmp_path)
    assert starts.read_text() == "x"
    assert same(first, alone)
    assert trained.losses == taken.losses == spent.losses
    assert taken.seconds == trained.seconds > 0
    assert (trained.reused, taken.reused) == (False, True)
    assert torch.equal(second.head.weight, first.head.weight + 1)
    second.head.load_state_dict(first.head.state_dict())
    assert same(second, first)
    assert not second.training
    assert json.loads((kept(tmp_path) / "cost.json").read_text())["seconds"] == trained.seconds
    assert not (kept(tmp_path) / "checkpoint.pt").exists()


def test_without_a_shelf_it_is_trained_for_the_caller(starts: Path) -> None:
    one, other = fresh(), fresh()
    assert not encoder(one, X, QUICK, 0).reused
    assert not encoder(other, X, QUICK, 0).reused
    assert starts.read_text() == "xx"
    assert same(one, other)


def test_a_recipe_is_everything_that_decides_and_nothing_else() -> None:
    base = recipe(fresh(), X, QUICK, 0)
    other_head = fresh()
    other_head.head.weight.data += 1
    pixel = X.clone()
    pixel[3, 0, 2, 2] += 1
    assert recipe(other_head, X.clone(), replace(QUICK), 0) == base
    others = [
        recipe(fresh(seed=1), X, QUICK, 0),
        recipe(fresh(), pixel, QUICK, 0),
        recipe(fresh(), X.flip(0), QUICK, 0),
        recipe(fresh(), X, replace(QUICK, temperature=0.3), 0),
        recipe(fresh(), X, QUICK, 1),
        recipe(fresh((3, 8, 8)), X, QUICK, 0),
    ]
    assert len({base, *others}) == 7


def _work(cache_folder: Path, out: Path, config: object) -> None:
    torch.set_num_threads(1)
    model = fresh()
    spent = encoder(model, X, config, 0, cache_folder)  # type: ignore[arg-type]
    torch.save({"weights": model.state_dict(), "reused": spent.reused}, out)


def test_two_processes_train_once(tmp_path: Path, starts: Path) -> None:
    outs = [tmp_path / f"{i}.pt" for i in range(2)]
    workers = [FORK.Process(target=_work, args=(tmp_path / "shelf", out, SLOW)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert starts.read_text() == "x"
    one, other = (torch.load(out) for out in outs)
    assert sorted([one["reused"], other["reused"]]) == [False, True]
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])


def _hold(cache_folder: Path, out: Path) -> None:
    def heartbeat() -> None:
        with out.open("a") as stream:
            stream.write("x")
        time.sleep(0.2)

    encoder(fresh(), X, SLOW, 0, cache_folder, heartbeat)


def test_who_waits_beats_and_goes_on_where_a_killed_holder_stopped(
    tmp_path: Path, starts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybd.utils.locks.PATIENCE", 0.05)
    usual = Checkpoint.save

    def at_once(self: Checkpoint, state: dict[str, Any]) -> None:
        self.every = 0
        usual(self, state)

    monkeypatch.setattr(Checkpoint, "save", at_once)
    epochs = tmp_path / "epochs"
    holder = FORK.Process(target=_hold, args=(tmp_path / "shelf", epochs))
    holder.start()
    while not epochs.exists() or len(epochs.read_text()) < 3:
        time.sleep(0.01)
    beats: list[bool] = []

    def heartbeat() -> None:
        beats.append(holder.is_alive())
        if len(beats) == 4 and holder.pid:
            os.kill(holder.pid, signal.SIGKILL)
            holder.join()

    model, whole = fresh(), fresh()
    spent = encoder(model, X, SLOW, 0, tmp_path / "shelf", heartbeat)
    assert holder.exitcode == -signal.SIGKILL
    assert beats[:4] == [True] * 4
    trained_here = len(beats) - 4
    assert 20 <= trained_here <= 40 - 3
    assert spent.losses == pretrain(whole, X, SLOW, 0).losses
    assert spent.seconds >= 3 * 0.2  # those of the dead holder count
    assert same(model, whole)


@pytest.mark.parametrize("damage", ["emptied", "cut", "turned", "other", "no cost"])
def test_a_broken_encoder_is_trained_anew(
    damage: str, tmp_path: Path, starts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, again = fresh(), fresh()
    encoder(first, X, QUICK, 0, tmp_path)
    file = kept(tmp_path) / "weights.pt"
    content = bytearray(file.read_bytes())
    if damage == "no cost":
        (kept(tmp_path) / "cost.json").unlink()
    elif damage == "other":
        torch.save({"mean": torch.zeros(1)}, file)
    else:
        middle = content.index(first.blocks[0][0].weight.detach().numpy().tobytes()[:16])
        content[middle] ^= 255
        file.write_bytes({"emptied": b"", "cut": content[: len(content) // 2], "turned": content}[damage])
    with caplog.at_level(logging.WARNING):
        spent = encoder(again, X, QUICK, 0, tmp_path)
    assert "trained anew" in caplog.text
    assert not spent.reused
    assert same(first, again)
    assert starts.read_text() == "xx"
    assert encoder(fresh(), X, QUICK, 0, tmp_path).reused


def test_a_shelf_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, starts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shelf").write_text("a file where a folder should be")
    model, alone = fresh(), fresh()
    pretrain(alone, X, QUICK, 0)
    with caplog.at_level(logging.WARNING):
        assert not encoder(model, X, QUICK, 0, tmp_path / "shelf").reused
    assert "trained for this trial alone" in caplog.text
    assert same(model, alone)


def test_a_disk_that_fills_up_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, alone = fresh(), fresh()
    pretrain(alone, X, QUICK, 0)

    def full(self: Checkpoint, state: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "save", full)
    encoder(model, X, QUICK, 0, tmp_path)
    assert "No space left" in caplog.text
    assert same(model, alone)


def _poisoned(rate: float) -> torch.Tensor:
    x = X.clone()
    x[torch.randperm(50, generator=stream(0, "victims"))[: int(rate * 50)], :, -2:, -2:] = 255
    return x


def test_every_poisoned_set_has_its_own_encoder_and_every_defence_the_same(tmp_path: Path, starts: Path) -> None:
    models: list[Classifier] = []
    for rate in (0.0, 0.1, 0.1, 0.0):
        models.append(fresh())
        encoder(models[-1], _poisoned(rate), QUICK, 0, tmp_path)
    assert starts.read_text() == "xx"
    assert same(models[1], models[2])
    assert same(models[0], models[3])
    assert not same(models[0], models[1])
