"""The executor on Ray: consecutive Tune runs over a queue until it is empty."""

import signal
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
from raybd.utils.signals import raise_signal

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
        super().__init__(function, replace(setup, start=uuid.uuid4().hex), data)
        self.resources, self.cores, self.cpus = resources, cores, resources.cpus * resources.workers

    @driver_environment()
    def run(self, queue: TrialQueue, progress: Progress) -> ExecutorResult:
        """As `Executor.run`; Ctrl-C and SIGTERM end the Tune run and its trials after their next checkpoints, and
        unfinished trials remain, as they do where Ray goes away."""
        watch, errors, asked = RayWatch.of_connected(), list[str](), list[int]()
        try:
            return self._run(queue, progress, watch, errors, asked)
        except LostRayError as lost:
            self._tell_unreported(queue)
            leave_lost_ray(128 + asked[0] if asked else 1)
            return ExecutorResult([*errors, str(lost)], interrupted=asked[0] if asked else 0, lost=True)
        finally:
            watch.close()

    def _run(
        self, queue: TrialQueue, progress: Progress, watch: RayWatch, errors: list[str], asked: list[int]
    ) -> ExecutorResult:
        """Consecutive Tune runs; their `errors` are added, and the signals that asked them to end.

        Raises:
            LostRayError: Ray has gone away.
        """
        shared, failures = watch.call(self._share_data, raise_signal), 0
        while failures < MAX_RESTARTS:
            before = queue.progress
            run = TuneRun(queue, progress, self.setup, self.resources, shared, self.function, asked)
            error = run.fit(watch)
            if error is None and run.done:
                return ExecutorResult(errors)
            self._tell_unreported(queue)
            if asked:
                return ExecutorResult(errors, interrupted=asked[0])
            if error is None and (queue.in_flight or not run.full):
                return ExecutorResult(errors, interrupted=signal.SIGINT)  # else Tune ends early on Ctrl-C alone
            if error is not None:
                errors.append(_error_line(error))
                if isinstance(error.__cause__, OutOfMemoryError):
                    queue.tell_out_of_memory([key for key in queue.in_flight if key in run.running])
                queue.requeue()
                progress.all_ended()
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
