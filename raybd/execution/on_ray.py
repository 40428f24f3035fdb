"""The executor on Ray: Tune runs over a queue, one after another, until nothing is left."""

from collections.abc import Mapping

import ray
from ray.exceptions import OutOfMemoryError

from raybd.execution.attempt import finished_on_disk, run_attempt
from raybd.execution.executor import Ending, Executor, RunTrial
from raybd.execution.object_store import pack_data
from raybd.execution.progress import Progress
from raybd.execution.queue import TrialQueue
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.tune_run import TuneRun
from raybd.execution.worker_environment import driver_environment
from raybd.types import Data

MAX_RESTARTS = 3  # of Tune in a row without one more trial ended


class RayExecutor(Executor):
    """Runs trials on the Ray that is connected. Tune that breaks down is started again over what is left."""

    def __init__(
        self,
        setup: TrialSetup,
        data: Mapping[str, Data],
        resources: Resources,
        cores: int,
        function: RunTrial = run_attempt,
    ) -> None:
        super().__init__(function, setup, data)
        self.resources, self.cores, self.cpus = resources, cores, resources.cpus * resources.workers

    @driver_environment()
    def run(self, queue: TrialQueue, progress: Progress) -> Ending:
        """As every executor; Ctrl-C ends the Tune run, and what was in flight is left."""
        shared = {name: [ray.put(pack_data(one))] for name, one in self.data.items()}
        errors, failures = list[str](), 0
        while failures < MAX_RESTARTS:
            before = queue.progress
            run = TuneRun(queue, progress, self.setup, self.resources, shared, self.function)
            error = run.fit()
            if error is None and run.done:
                return Ending(errors)
            self._tell_unheard(queue)
            if error is None and (queue.in_flight or not run.full):
                return Ending(errors, interrupted=True)  # without an error Tune ends early on Ctrl-C alone
            if error is not None:
                errors.append(_told(error))
                if isinstance(error.__cause__, OutOfMemoryError):
                    queue.interrupted_by_memory([key for key in run.running if key in queue.in_flight])
                queue.put_back()
                failures = 0 if queue.progress > before else failures + 1
        return Ending(errors)

    def _tell_unheard(self, queue: TrialQueue) -> None:
        """Trials that have finished on this disk although nobody lived to tell Tune."""
        for key in list(queue.in_flight):
            if outcome := finished_on_disk(self.setup.folder.trial(key), self.setup):
                queue.tell(outcome)


def _told(error: Exception) -> str:
    """A line about a Tune that broke down."""
    if isinstance(error.__cause__, OutOfMemoryError):
        return "a node ran low on memory, and Ray's memory monitor ended trials there"
    return f"Ray Tune broke down: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
