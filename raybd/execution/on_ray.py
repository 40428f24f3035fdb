"""The executor on Ray: consecutive Tune runs over a queue until it is empty."""

import signal
from collections.abc import Mapping
from typing import Any, NoReturn

import ray
from ray.exceptions import OutOfMemoryError

from raybd.errors import LostRayError
from raybd.execution.attempt import finished_on_disk, run_attempt
from raybd.execution.executor import Executor, ExecutorResult, RunTrial
from raybd.execution.object_store import pack_data
from raybd.execution.progress import Progress
from raybd.execution.queue import TrialQueue
from raybd.execution.ray_cluster import leave_lost_ray
from raybd.execution.ray_watch import RayWatch
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.tune_run import TuneRun
from raybd.execution.worker_environment import driver_environment
from raybd.types import Data

MAX_RESTARTS = 3  # consecutive restarts of Tune in which no trial ends


class RayExecutor(Executor):
    """Runs trials on the connected Ray cluster. If Tune itself fails, it is restarted with the remaining trials."""

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
    def run(self, queue: TrialQueue, progress: Progress) -> ExecutorResult:
        """As `Executor.run`; Ctrl-C and SIGTERM end the Tune run, and unfinished trials remain, as they do where Ray
        goes away."""
        watch, errors = RayWatch.of_connected(), list[str]()
        try:
            return self._run(queue, progress, watch, errors)
        except LostRayError as lost:
            self._tell_unreported(queue)
            leave_lost_ray()
            return ExecutorResult([*errors, str(lost)], lost=True)
        finally:
            watch.close()

    def _run(self, queue: TrialQueue, progress: Progress, watch: RayWatch, errors: list[str]) -> ExecutorResult:
        """Consecutive Tune runs; their `errors` are added.

        Raises:
            LostRayError: Ray has gone away.
        """
        shared, failures = watch.call(self._share_data, _end_at_once), 0
        while failures < MAX_RESTARTS:
            before = queue.progress
            run = TuneRun(queue, progress, self.setup, self.resources, shared, self.function)
            error = run.fit(watch)
            if error is None and run.done:
                return ExecutorResult(errors)
            self._tell_unreported(queue)
            if run.asked:
                return ExecutorResult(errors, interrupted=run.asked[0])
            if error is None and (queue.in_flight or not run.full):
                return ExecutorResult(errors, interrupted=signal.SIGINT)  # else Tune ends early on Ctrl-C alone
            if error is not None:
                errors.append(_error_line(error))
                if isinstance(error.__cause__, OutOfMemoryError):
                    queue.tell_out_of_memory([key for key in queue.in_flight if key in run.running])
                queue.requeue()
                failures = 0 if queue.progress > before else failures + 1
        return ExecutorResult(errors)

    def _share_data(self) -> dict[str, list[Any]]:
        """References to the packed data sets, each in a list."""
        return {name: [ray.put(pack_data(one))] for name, one in self.data.items()}

    def _tell_unreported(self, queue: TrialQueue) -> None:
        """Report trials that finished, as their folders show, although their workers could not report to Tune."""
        for key in list(queue.in_flight):
            if outcome := finished_on_disk(self.setup.folder.trial(key), self.setup):
                queue.tell(outcome)


def _error_line(error: Exception) -> str:
    """One line on the error that ended a Tune run."""
    if isinstance(error.__cause__, OutOfMemoryError):
        return "a node ran low on memory, and Ray's memory monitor ended trials there"
    return f"Ray Tune broke down: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _end_at_once(number: int) -> NoReturn:
    """End the process by a signal that comes before any trial."""
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
