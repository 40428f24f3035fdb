"""The disk is full, or what lies on it is damaged: nothing that has finished is lost, and the rest is done again."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raybd.execution.attempt import run_attempt
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.setup import TrialSetup
from raybd.tracking import load_runs
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FINISHED
from raybd.trials.run import run_trial
from tests.sweeping import run_inline

CONFIG = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(name="tests.misbehaving:healthy"))


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    where = tmp_path / "tiny"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: a full disk needs a small one, and mount says: {mounted.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def made(configs: list[TrialConfig], results: Path, store: Path) -> SweepPlan:
    return plan_sweep("s", configs, results, f"sqlite:///{store}/m.db")


def test_a_full_results_disk(tmp_path: Path, tiny: Path) -> None:
    """One trial finishes, then there is no room; with room again the same command runs the others."""
    configs = [replace(CONFIG, seed=seed) for seed in range(3)]
    a = made(configs, tiny, tmp_path)
    assert run_inline(replace(a, todo=a.todo[:1])).exit_status == 0
    ballast = tiny / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(os.urandom(2**20))
    result = run_inline(made(configs, tiny, tmp_path))
    assert (result.finished_before, len(result.failures), result.exit_status) == (1, 2, 1)
    assert result.text.count("No space left on device") == 2
    assert "on disk but not in" not in result.text  # there is nothing that could be sent

    ballast.unlink()
    again = made(configs, tiny, tmp_path)
    assert (again.finished_before, len(again.todo)) == (1, 2)
    assert run_inline(again).exit_status == 0
    runs = load_runs("s", again.store.address.uri)
    assert sorted(runs[runs["status"] == "FINISHED"]["tags.raybd.key"]) == sorted(config.key for config in a.todo)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of a weight: PyTorch reads such a file without a word."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [cut, flip, Path.touch], ids=["cut short", "one bit", "whole"])
def test_a_damaged_checkpoint(harm: Callable[[Path], None], tmp_path: Path) -> None:
    """The training begins anew, ends with the same numbers, and the run and the summary say so."""
    a = made([CONFIG], tmp_path / "r", tmp_path)
    setup, folder = (
        TrialSetup("s", a.folder, a.store.address, checkpoint_seconds=0.0, figures="none"),
        a.folder.trial(a.todo[0].key),
    )

    def die() -> None:
        if len(folder.history()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_attempt(a.todo[0], a.data["digits"], setup, die)
    harm(folder.checkpoint)
    outcome = run_attempt(a.todo[0], a.data["digits"], setup)
    damaged = harm is not Path.touch
    note = (
        "its checkpoint could not be read: training restarted"
        if damaged
        else "resumed from its checkpoint after epoch 2"
    )
    assert (outcome.status, outcome.note) == (FINISHED, note)
    assert list(load_runs("s", a.store.address.uri)["tags.raybd.note"]) == [note]
    record = folder.read()
    assert record is not None
    assert [line["epoch"] for line in folder.history()] == [1, 2, 3]
    fresh = run_trial(a.todo[0], a.data["digits"]).metrics
    assert {k: v for k, v in record.metrics.items() if "seconds" not in k} == {
        k: v for k, v in fresh.items() if "seconds" not in k
    }


@pytest.mark.parametrize("name", ["trial.json", "sent.json"])
def test_a_damaged_record_does_not_stop_the_sweep(name: str, tmp_path: Path) -> None:
    """What the store has, it has; and a record that nobody can read is made again."""
    a = made([CONFIG, replace(CONFIG, seed=1)], tmp_path / "r", tmp_path)
    run_inline(replace(a, todo=a.todo[:1]))
    cut(a.folder.trial(a.todo[0].key).path / name)
    again = made([CONFIG, replace(CONFIG, seed=1)], tmp_path / "r", tmp_path)
    assert (again.finished_before, [config.seed for config in again.todo]) == (1, [1])
    assert run_inline(again).exit_status == 0


def test_a_checkpoint_that_cannot_be_written_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = made([CONFIG], tmp_path / "r", tmp_path)
    monkeypatch.setattr("raybd.training.checkpoint.write_atomically", lambda path, write: write(Path("/dev/full")))
    setup = TrialSetup("s", a.folder, a.store.address, checkpoint_seconds=0.0, figures="none")
    assert run_attempt(a.todo[0], a.data["digits"], setup).status == FINISHED
    assert "checkpoint.pt cannot be written" in caplog.text
