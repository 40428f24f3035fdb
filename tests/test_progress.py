"""The progress of a sweep, on a clock that is set by hand: what runs, how long it will take, a bar or lines."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from raybd.execution import progress as module
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import ListProposer
from raybd.execution.queue import TrialQueue
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, FINISHED

TRIALS = [TrialConfig(seed=seed) for seed in range(40)]


class Sweep:
    """A queue whose trials start and end by hand, beside its progress."""

    def __init__(self, trials: int = 40, stream: io.StringIO | None = None) -> None:
        self.now = 100.0
        self.queue = TrialQueue(ListProposer(TRIALS[:trials]))
        self.progress = Progress(self.queue, stream, clock=lambda: self.now)

    def start(self) -> str:
        """Start the next trial; its key."""
        config = self.queue.next()
        assert isinstance(config, TrialConfig)
        self.progress.started(config.key)
        return config.key

    def end(self, key: str, status: str = FINISHED) -> None:
        """End the trial `key`, as executors do."""
        self.queue.tell(Outcome(key, "", status))
        self.progress.ended(key)

    def run_rounds(self, number: int, at_once: int, seconds: float) -> None:
        """Rounds of trials that run together."""
        for _ in range(number):
            keys = [self.start() for _ in range(at_once)]
            self.now += seconds
            for key in keys:
                self.end(key)


def test_every_trial_is_in_one_count() -> None:
    sweep = Sweep(4)
    first, second = sweep.start(), sweep.start()
    assert sweep.progress.line == "done 0  running 2  failed 0  left 2  0:00"
    sweep.now += 61
    sweep.end(first)
    sweep.end(second, FAILED)
    sweep.start()
    assert sweep.progress.line.startswith("done 1  running 1  failed 1  left 1  1:01, about ")


def test_a_trial_that_waits_for_a_worker_does_not_run() -> None:
    """Tune takes a trial from the queue before Ray has room for it."""
    sweep = Sweep(4)
    sweep.start()
    sweep.queue.next()
    assert sweep.progress.line.startswith("done 0  running 1  failed 0  left 3")


def test_a_trial_that_is_retried_runs_once() -> None:
    sweep = Sweep(4)
    sweep.progress.started(sweep.start())
    assert sweep.progress.counts.running == 1


def test_after_a_restart_nothing_runs_until_it_starts_again() -> None:
    sweep = Sweep(4)
    sweep.start()
    sweep.queue.requeue()
    sweep.progress.all_ended()
    assert str(sweep.progress.counts) == "done 0  running 0  failed 0  left 4"
    sweep.start()
    assert str(sweep.progress.counts) == "done 0  running 1  failed 0  left 3"


def test_the_first_guess_counts_trials_that_run_together() -> None:
    """Of 40 trials of 10 s, 4 at once, 35 wait when the first has ended and one has started: 90 s, not 390."""
    sweep = Sweep()
    keys = [sweep.start() for _ in range(4)]
    sweep.now += 10
    sweep.end(keys[0])
    sweep.start()
    assert sweep.progress.seconds_left == pytest.approx((35 + 1) * 10 / 4)


def test_the_time_left_is_told_by_recent_trials() -> None:
    """One slow round, as at the start of workers, then rounds of 2 s: 20 trials are left, of 2 s, two at once."""
    sweep = Sweep(36)
    sweep.run_rounds(1, at_once=2, seconds=30)
    sweep.run_rounds(7, at_once=2, seconds=2)
    assert sweep.progress.counts.waiting == 20
    assert sweep.progress.seconds_left == pytest.approx(20)


def test_a_trial_that_runs_on_counts_down_and_never_below_0() -> None:
    sweep = Sweep(2)
    sweep.run_rounds(1, at_once=1, seconds=10)
    sweep.start()
    sweep.now += 4
    assert sweep.progress.seconds_left == pytest.approx(6)
    sweep.now += 100
    assert sweep.progress.seconds_left == 0


def test_nothing_is_guessed_before_a_trial_has_ended() -> None:
    sweep = Sweep(2)
    sweep.start()
    assert "about" not in sweep.progress.line


@contextmanager
def lines_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(module, "LINE_SECONDS", seconds)
        yield


def test_a_pipe_gets_plain_lines_and_the_last_one_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    sweep = Sweep(2, stream)
    with lines_every(0.02, monkeypatch), sweep.progress.shown():
        first = sweep.start()
        time.sleep(0.2)
        sweep.end(first)
        sweep.end(sweep.start())
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("done 0  running 1  failed 0  left 1")
    assert lines[-1].startswith("done 2  running 0  failed 0  left 0")
    assert len(lines) == len({re.split(r"  \d+:", line)[0] for line in lines})  # none twice
    assert "\x1b" not in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    sweep = Sweep(2, Terminal())
    with sweep.progress.shown():
        sweep.end(sweep.start())
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sweep.progress.stream.getvalue())  # type: ignore[union-attr]
    assert "━" in drawn
    assert "done 1  running 0  failed 0  left 1" in drawn
    assert max(map(len, re.split(r"[\r\n]", drawn))) <= 60


def test_a_search_may_propose_more() -> None:
    sweep = Sweep(1)
    key = sweep.start()
    sweep.queue.proposer = ListProposer([replace(TRIALS[0], seed=99)])
    assert sweep.progress.counts.total == 2
    sweep.end(key)
    assert sweep.progress.counts.waiting == 1
