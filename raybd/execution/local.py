"""The executor that runs trials in this process, one after another."""

import signal
from collections.abc import Mapping
from dataclasses import replace

import torch

from raybd.execution import memory
from raybd.execution.attempt import run_attempt
from raybd.execution.executor import MAX_ATTEMPTS, Executor, ExecutorResult, RunTrial
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.setup import TrialSetup
from raybd.trials.config import TrialConfig
from raybd.types import Data


class LocalExecutor(Executor):
    """Runs trials in this process, with the same records as on Ray."""

    def __init__(self, setup: TrialSetup, data: Mapping[str, Data], function: RunTrial = run_attempt) -> None:
        super().__init__(function, setup, data)
        self.cores, self.cpus = setup.threads, float(setup.threads)

    def run(self, queue: TrialQueue, progress: Progress) -> ExecutorResult:
        """As `Executor.run`; Ctrl-C interrupts the running trial."""
        threads = torch.get_num_threads()
        memory.retain_freed_memory()
        try:
            with memory.temporary_freeze() as freeze:
                while isinstance(config := queue.next(), TrialConfig):
                    progress.show()
                    queue.tell(self._run(config, queue.runs_alone(config.key)))
                    freeze()
                    progress.show()
            assert config is Signal.DONE, "a proposer waits although nothing is in flight"
        except KeyboardInterrupt:
            return ExecutorResult(interrupted=signal.SIGINT)
        finally:
            torch.set_num_threads(threads)
        return ExecutorResult()

    def _run(self, config: TrialConfig, tight: bool) -> Outcome:
        outcome, earlier = self._attempt(config, tight), ""
        for _ in range(1, MAX_ATTEMPTS):
            if outcome.retryable:
                earlier = outcome.error
                outcome = self._attempt(config, tight)
        return replace(outcome, earlier=earlier) if earlier else outcome

    def _attempt(self, config: TrialConfig, tight: bool) -> Outcome:
        setup = replace(self.setup, tight=tight)
        return self.function(config, self.data[config.image_set], setup, lambda: None)
