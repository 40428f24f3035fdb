"""Ends of a sweep: signals, in this process, and how often a training keeps its state."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.command_line.runner import Run, _parent_run
from raybd.errors import EndRequestedError, LostRayError
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan
from raybd.execution.proposers import ListProposer
from raybd.execution.queue import STOPS, TrialQueue
from raybd.execution.stop_file import StopFile, StopPoll
from raybd.tracking import load_runs
from raybd.training import Checkpoint, checkpoint
from raybd.training.config import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FAILED, SweepFolder
from raybd.trials.run import run_trial
from raybd.trials.validate import prepare
from raybd.types import Data, Report
from raybd.utils import ending
from raybd.utils.ending import GRACE, end_requested, ending_heartbeat, ending_when
from raybd.utils.signals import SignalError, first_signal, raise_signal
from sweeps.ib import PRESETS, summarise

SIGNALS = ["SIGTERM", "SIGHUP", "SIGINT"]


class Clock:
    """Stands in for the module `time` where only this clock moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(checkpoint, "time", made)
    monkeypatch.setattr(ending, "time", made)
    return made


def saved_at(clock: Clock, path: Path, epochs: int, seconds: float) -> list[int]:
    """The epochs after which a training of `epochs`, of `seconds` each, keeps its state."""
    made, kept = Checkpoint(path, epochs=epochs), []
    for epoch in range(1, epochs):
        clock.now += seconds
        before = path.stat().st_mtime_ns if path.exists() else 0
        made.save({"epoch": epoch})
        if path.exists() and path.stat().st_mtime_ns != before:
            kept.append(epoch)
    return kept


@pytest.mark.parametrize(
    ("epochs", "seconds", "kept"),
    [
        (1000, 1.0, [10, *range(70, 1000, 60)]),  # 10 s come first, then a minute each
        (100, 1.0, [5, 65]),  # 5 % come first
        (20, 0.06, [17]),  # a trial of a second is done again at less cost than it is kept
        (10, 0.05, []),
        (6, 300.0, [1, 2, 3, 4, 5]),
    ],
)
def test_a_training_keeps_its_state_early_and_then_every_minute(
    clock: Clock, tmp_path: Path, epochs: int, seconds: float, kept: Sequence[int]
) -> None:
    assert saved_at(clock, tmp_path / "c.pt", epochs, seconds) == list(kept)


def test_where_the_number_of_epochs_is_unknown_the_first_state_is_kept_after_ten_seconds(
    clock: Clock, tmp_path: Path
) -> None:
    made = Checkpoint(tmp_path / "c.pt")
    for now, kept in ((9.0, False), (10.0, True)):
        clock.now = now
        made.save({"losses": []})
        assert made.path.exists() == kept


def test_a_trial_that_is_killed_again_and_again_ends(clock: Clock, digits: Data, tmp_path: Path) -> None:
    """Each life lasts for three of 20 epochs, of two seconds each, and gets further than the one before."""
    config = TrialConfig(train=TrainConfig(epochs=20), model=ModelConfig(width=0.25), poison_rate=0.1)
    path = tmp_path / "c.pt"
    begun: list[int] = []  # the first epoch of each life

    def life() -> float | None:
        """The trial's last loss, if it lived to its end."""
        reports: list[Report] = []

        def report(epoch: Report) -> None:
            reports.append(epoch)
            clock.now += 2
            if len(reports) == 3 and epoch.epoch < 20:
                raise KeyboardInterrupt

        try:
            return run_trial(config, digits, report, Checkpoint(path, epochs=20)).metrics["loss/train"]
        except KeyboardInterrupt:
            return None
        finally:
            begun.append(reports[0].epoch)

    while (loss := life()) is None:
        assert len(begun) < 20, "it stands still"
    assert begun == sorted(set(begun))  # progress in every life
    assert loss == run_trial(config, digits).metrics["loss/train"]


def test_a_training_that_is_asked_to_end_keeps_its_state_and_ends(digits: Data, tmp_path: Path) -> None:
    config, path, asked = TrialConfig(train=TrainConfig(epochs=9), poison_rate=0.1), tmp_path / "c.pt", list[int]()

    def report(epoch: Report) -> None:
        asked.extend([1] * (epoch.epoch == 2))

    with pytest.raises(EndRequestedError), ending_when(lambda: bool(asked)):
        run_trial(config, digits, report, Checkpoint(path))
    state = Checkpoint(path).load()
    assert state is not None
    assert state["epoch"] == 2
    assert not end_requested()


def test_work_without_a_checkpoint_ends_by_its_heartbeat_once_the_grace_is_over(clock: Clock) -> None:
    heartbeats, asked = list[int](), list[int]()
    beat = ending_heartbeat(lambda: heartbeats.append(1))
    with ending_when(lambda: bool(asked)):
        beat()
        clock.now = 1e6
        asked.append(1)
        beat()
        clock.now += GRACE
        beat()
        clock.now += 0.1
        with pytest.raises(EndRequestedError):
            beat()
    assert len(heartbeats) == 4


def test_a_driver_asks_the_trials_of_its_own_start_alone(tmp_path: Path) -> None:
    own, other = StopFile(tmp_path / "sweep" / ".stop", "a"), StopFile(tmp_path / "sweep" / ".stop", "b")
    assert not own.asked()
    other.write()
    assert (own.asked(), other.asked(), StopPoll(other)()) == (False, True, True)


def test_a_trial_whose_process_was_asked_to_end_goes_on_and_not_for_ever() -> None:
    config, told = TrialConfig(), list[Outcome]()
    queue = TrialQueue(ListProposer([config]), ended=lambda _, outcome: told.append(outcome))
    for _ in range(STOPS):
        assert queue.next() == config
        queue.tell(Outcome(config.key, "", FAILED, stopped=True))
        assert (queue.left, told) == (1, [])
    assert queue.next() == config
    queue.tell(Outcome(config.key, "", FAILED, stopped=True))
    assert (queue.left, len(told)) == (0, 1)


ARGS = (
    "--epochs 12 --weight-decays 5e-4 --widths 1.0 --poison-rates 0.1 --attacks badnets --seeds 2 --noise 0 "
    "--metrics smoothness --model tests.misbehaving:signalled_once --figures none --inline"
)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a sweep of two trials, the first of which sends a signal to this process."""
    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(tmp_path))
    return [*ARGS.split(), "--tracking-uri", f"sqlite:///{tmp_path}/m.db", "--results", str(tmp_path)]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_a_sweep_in_this_process_with_a_checkpoint_a_summary_and_its_status(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYBD_TEST_SIGNAL", name)
    before = {
        number: signal.getsignal(number) for number in (signal.SIGALRM, *map(signal.Signals.__getitem__, SIGNALS))
    }
    assert main(PRESETS, summarise, arguments) == 128 + getattr(signal, name)
    assert before == {number: signal.getsignal(number) for number in before}
    assert "2 trials are left: run the same command again to resume" in capsys.readouterr().out
    [trial] = SweepFolder.of(tmp_path, "ib").path.glob("trials/*/checkpoint.pt")
    state = Checkpoint(trial).load()
    assert state is not None
    assert [f"{state['epoch']}"] == [line.split(",")[0][10:] for line in history(trial)[-1:]]
    uri = f"sqlite:///{tmp_path}/m.db"
    assert "RUNNING" not in every_status(tmp_path)
    assert main(PRESETS, summarise, arguments) == 0
    assert f"resumed from its checkpoint after epoch {state['epoch']}" in capsys.readouterr().out
    assert list(load_runs("ib", uri)["status"]).count("FINISHED") == 2


@pytest.mark.parametrize("error", [BrokenPipeError(), LostRayError("gone"), SignalError(15), RuntimeError("a bug")])
def test_the_run_of_a_sweep_is_closed_whatever_ends_it(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, closed = Mock(), list[str]()
    plan.store.close_runs = closed.append
    monkeypatch.setattr("raybd.command_line.runner._begin", lambda *_: None)
    with pytest.raises(type(error)), _parent_run(SweepOptions(), plan, []):
        raise error
    assert closed == ["KILLED"]


def test_a_sweep_whose_output_nobody_reads_goes_on() -> None:
    code = (
        "import sys\n"
        "from raybd.execution.progress import Progress\n"
        "from raybd.execution.proposers import ListProposer\n"
        "from raybd.execution.queue import TrialQueue\n"
        "from raybd.utils.signals import say\n"
        "sys.stdin.read()\n"
        "with Progress(TrialQueue(ListProposer([]))).shown(): pass\n"
        "for _ in range(3): say('more')\n"
        "print('done', file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        for stream in (process.stdout, process.stdin):
            assert stream is not None
            stream.close()
        assert process.stderr is not None
        assert process.stderr.read() == b"done\n"
    assert process.returncode == 0


def history(checkpoint_file: Path) -> list[str]:
    return (checkpoint_file.parent / "history.jsonl").read_text().splitlines()


def every_status(folder: Path) -> set[str]:
    """Of the runs of trials and of the sweep's own."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "m.db")) as connection:
        return {status for (status,) in connection.execute("SELECT status FROM runs")}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_a_search_with_what_is_left_and_no_open_run(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search runs the trials of the sweep itself."""
    monkeypatch.setenv("RAYBD_TEST_SIGNAL", name)

    def search(options: SweepOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
        from raybd.command_line.grid import expand

        configs, data = prepare(expand(options), None)
        run(replace(plan, data=data), ListProposer(configs))
        return []

    assert main(PRESETS, summarise, arguments, search=search) == 128 + getattr(signal, name)
    said = capsys.readouterr()
    assert "2 trials are left: run the same command again to resume" in said.out
    assert "interrupted: trials that have ended are kept" in said.err
    assert every_status(tmp_path) == {"KILLED"}
    assert list(tmp_path.glob("ib/trials/*/checkpoint.pt"))


def test_a_signal_outside_trials_has_its_status_too(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(options: SweepOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return []

    assert main(PRESETS, summarise, arguments, search=search) == 143
    assert "interrupted" in capsys.readouterr().err
    assert every_status(tmp_path) == {"KILLED"}


def test_a_second_ctrl_c_is_not_caught() -> None:
    with first_signal(raise_signal):
        with pytest.raises(SignalError):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as second:
            os.kill(os.getpid(), signal.SIGINT)
    assert type(second.value) is KeyboardInterrupt
