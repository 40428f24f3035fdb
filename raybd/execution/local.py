"""The executor that runs trials in this process, one after another."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import NoReturn

import torch
from threadpoolctl import threadpool_limits

from raybd.errors import EndRequestedError
from raybd.execution import memory
from raybd.execution.attempt import run_attempt
from raybd.execution.executor import MAX_ATTEMPTS, Executor, ExecutorResult, RunTrial
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.setup import TrialSetup
from raybd.execution.watchdog import watchdog
from raybd.trials.config import TrialConfig
from raybd.types import Data
from raybd.utils.ending import GRACE, ending_when
from raybd.utils.signals import first_signal


class LocalExecutor(Executor):
    """Runs trials in this process, with the same records as on Ray."""

    def __init__(self, setup: TrialSetup, data: Mapping[str, Data], function: RunTrial = run_attempt) -> None:
        super().__init__(function, setup, data)
        self.cores, self.cpus = setup.threads, float(setup.threads)

    def run(self, queue: TrialQueue, progress: Progress) -> ExecutorResult:
        """As `Executor.run`; a signal ends the running trial after its next checkpoint, or after GRACE seconds."""
        threads, asked = torch.get_num_threads(), list[int]()
        memory.retain_freed_memory()
        try:
            with ending_when(lambda: bool(asked)), _ending_by_signal(asked), memory.temporary_freeze() as freeze:
                self._run_all(queue, progress, asked, freeze)
        except EndRequestedError:  # outside a trial's training
            pass
        finally:
            torch.set_num_threads(threads)
        return ExecutorResult(interrupted=asked[0] if asked else 0)

    def _run_all(self, queue: TrialQueue, progress: Progress, asked: list[int], freeze: Callable[[], None]) -> None:
        """Run the trials of `queue` until it is done, or a signal is among those `asked`; `freeze` after each."""
        while isinstance(config := queue.next(), TrialConfig):
            progress.started(config.key)
            outcome = self._run(config, queue.runs_alone(config.key))
            if not outcome.stopped:
                queue.tell(outcome)
            progress.ended(config.key)
            freeze()
            if asked:
                return
        assert config is Signal.DONE, "a proposer waits although nothing is in flight"

    def _run(self, config: TrialConfig, tight: bool) -> Outcome:
        outcome, earlier = self._attempt(config, tight), ""
        for _ in range(1, MAX_ATTEMPTS):
            if outcome.retryable:
                earlier = outcome.error
                outcome = self._attempt(config, tight)
        return replace(outcome, earlier=earlier) if earlier else outcome

    def _attempt(self, config: TrialConfig, tight: bool) -> Outcome:
        setup = replace(self.setup, tight=tight)
        report = setup.folder.trial(config.key).crash_report
        # on Ray the environment does it; threads of NumPy and SciPy beside torch's wait for one another
        with watchdog(setup.stall_seconds, report) as heartbeat, threadpool_limits(setup.threads):
            return self.function(config, self.data[config.image_set], setup, heartbeat)


@contextmanager
def _ending_by_signal(asked: list[int]) -> Iterator[None]:
    """Inside, a first signal is added to `asked`; where that ends nothing, EndRequestedError is raised GRACE seconds
    later, wherever this thread is."""
    before = list[object]()

    def ask(number: int) -> None:
        asked.append(number)
        before.append(signal.signal(signal.SIGALRM, _end))
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    try:
        with first_signal(ask):
            yield
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before[0])  # type: ignore[arg-type]  # what it returned itself


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise EndRequestedError
