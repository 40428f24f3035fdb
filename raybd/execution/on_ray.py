"""The executor on Ray Tune: one Tune run hands out the keys of a queue's trials and brings their outcomes back."""

import contextlib
import gc
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from raybd.execution import memory
from raybd.execution.attempt import finished_on_disk, run_attempt
from raybd.execution.data_parallel import RESERVED, run_on_ranks
from raybd.execution.executor import ATTEMPTS, Ending, Executor, RunTrial
from raybd.execution.object_store import pack_configs, pack_data, unpack_config, unpack_data
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.watchdog import HUNG, watchdog
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED
from raybd.types import Data

MAX_RESTARTS = 3  # of Tune in a row without one more trial ended
KEYS_PER_RUN = 5000  # of one Tune run, whose driver grows by 44 kB a trial
SCORE = "score"  # Tune wants a metric in every report; nothing is decided by it


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

    def run(self, queue: TrialQueue, progress: Progress) -> Ending:
        """As every executor; Ctrl-C ends the Tune run, and what was in flight is left."""
        shared = {name: [ray.put(pack_data(one))] for name, one in self.data.items()}
        errors, failures = list[str](), 0
        while failures < MAX_RESTARTS:
            before = queue.progress
            run = _TuneRun(self, queue, progress, shared)
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


class _TuneRun:
    """One run of Tune over at most KEYS_PER_RUN trials of a queue."""

    def __init__(
        self, executor: RayExecutor, queue: TrialQueue, progress: Progress, shared: dict[str, list[Any]]
    ) -> None:
        self.executor, self.queue, self.progress = executor, queue, progress
        self.listed = {config.key for config in queue.listed[:KEYS_PER_RUN]}
        configs = pack_configs(queue.listed[:KEYS_PER_RUN])
        parameters = {"configs": configs, "shared": shared, "setup": executor.setup, "function": executor.function}
        trial = tune.with_parameters(_trial, **parameters, resources=executor.resources)
        self.trainable = tune.with_resources(trial, _held(executor.resources))
        self.folder = executor.setup.folder.path / "tune"
        self.given = 0  # keys
        self.done = False  # whether the queue is
        self.running: set[str] = set()  # keys of trials that have begun and not ended
        self.reported: dict[str, Outcome] = {}  # by key, of the attempt under way
        self.earlier: dict[str, str] = {}  # by key, the error of the attempt before

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its search algorithm and callbacks for a restart that raybd does not use."""
        return {}

    def fit(self) -> Exception | None:
        """Run; the error that Tune itself broke down with, if it did."""
        searcher: Searcher = _KeySearcher(self)
        if (at_once := self.executor.resources.at_once) is not None:
            searcher = ConcurrencyLimiter(searcher, at_once)
        tuner = tune.Tuner(
            self.trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_StartInOrder(),  # type: ignore[no-untyped-call]
                num_samples=KEYS_PER_RUN + 1,  # the searcher ends it
                reuse_actors=True,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                storage_path=str(self.folder),
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                callbacks=[_Outcomes(self)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # noqa: BLE001 - Tune raises what it meets: OutOfMemoryError, EOFError, OSError, ...
            return error
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)  # every trial has its own folder
        return None

    @property
    def full(self) -> bool:
        """Whether this run has had its number of keys."""
        return self.given == KEYS_PER_RUN

    def next(self) -> dict[str, Any] | str | None:
        """The next point for Tune: a key, with its config where workers do not have it yet."""
        if self.full:
            return Searcher.FINISHED
        proposal = self.queue.next()
        if isinstance(proposal, TrialConfig):
            self.given += 1
            point: dict[str, Any] = {"key": proposal.key}
            if proposal.train.workers > 1:
                point["workers"] = proposal.train.workers
            return point if proposal.key in self.listed else point | {"config": json.dumps(proposal.to_dict())}
        self.done = proposal is Signal.DONE
        return Searcher.FINISHED if self.done else None

    def begin(self, key: str) -> None:
        """An attempt at a trial begins."""
        if outcome := self.reported.pop(key, None):
            self.earlier[key] = outcome.error
        self.running.add(key)
        self.progress.show()

    def end(self, key: str, died: str) -> None:
        """The last attempt at a trial has ended; `died` tells how, where it reported nothing."""
        config = self.queue.in_flight[key]
        outcome = self.reported.pop(key, None)
        if outcome is None:
            outcome = Outcome(key, config.label, FAILED, error=died, sent=False, died=True)
        self.running.discard(key)
        self.queue.tell(replace(outcome, earlier=self.earlier.pop(key, "")))
        self.progress.show()

    def why(self, trial: Any) -> str:
        """Why a worker that reported nothing has died: its crash report, or what Ray knows."""
        with contextlib.suppress(OSError, IndexError):  # no file, or an empty one where the disk was full
            report = self.executor.setup.folder.trial(trial.config["key"]).crash_report
            return report.read_text().splitlines()[0]
        with contextlib.suppress(OSError, IndexError, TypeError):  # or no name of one
            said = Path(trial.error_file).read_text().strip().splitlines()
            return f"its worker died: {said[-1].split('Some common causes')[0].strip()[:300]}"
        return "its worker died"


class _KeySearcher(Searcher):
    """Tune's search algorithm: the keys of a queue. Outcomes come by the callback, which hears of every attempt."""

    def __init__(self, run: _TuneRun) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.run = run

    def suggest(self, trial_id: str) -> Any:
        """A point, None to be asked again, or FINISHED."""
        return self.run.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to do."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: trials have records of their own."""

    def ensure_uploaded(self, checkpoint_path: str) -> None:
        """Nothing was saved."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """As `save`."""


class _StartInOrder(FIFOScheduler):
    """First in, first out. FIFOScheduler itself looks through all trials there ever were at each step."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune then starts what is pending, in order."""
        return


class _Outcomes(tune.Callback):
    """What Tune says of each attempt, to the run."""

    def __init__(self, run: _TuneRun) -> None:
        self.run = run

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.run.begin(trial.config["key"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "outcome" in result:
            self.run.reported[trial.config["key"]] = Outcome.from_json(result["outcome"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = trial.config["key"]
        if key not in self.run.reported:
            self.run.earlier[key] = self.run.why(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.run.end(trial.config["key"], "it ended without a report")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.run.end(trial.config["key"], self.run.why(trial))


def _trial(
    point: dict[str, Any],
    configs: dict[str, Any],
    shared: dict[str, list[Any]],
    setup: TrialSetup,
    function: RunTrial,
    resources: Resources,
) -> None:
    """In a worker: one attempt, one report. What another attempt may mend is raised, for Tune to try again."""
    key = point["key"]
    given = point.get("config")
    config = TrialConfig.from_dict(json.loads(given)) if given else unpack_config(configs, key)
    if setup.device == "cpu":
        memory.without_gpu_compiler()
    if config.train.workers > 1:
        outcome = run_on_ranks(config, shared[config.data][0], setup, resources)
    else:
        with watchdog(setup.stall_seconds, setup.folder.trial(key).crash_report) as heartbeat:
            outcome = function(config, unpack_data(ray.get(shared[config.data][0])), setup, heartbeat)
    memory.freeze()
    if setup.device == "cuda":
        clear_gpu(outcome.error)
    tune.report({SCORE: 0.0, "outcome": outcome.to_json()})
    if outcome.retryable:
        raise TrialFailedError(outcome.error)


def _held(resources: Resources) -> Any:
    """What Tune reserves for a trial: nothing where the trial has several workers, which Ray Train reserves for."""
    alone = {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}
    if resources.workers == 1:
        return alone
    bundle = {name.upper(): amount for name, amount in alone.items() if amount}
    return lambda point: RESERVED if "workers" in point else tune.PlacementGroupFactory([bundle])


class TrialFailedError(RuntimeError):
    """A trial failed, and another attempt may not."""


def clear_gpu(error: str) -> None:
    """Leave the GPU to the next trial: give memory back, and end a process whose CUDA context a fault has broken."""
    if "CUDA error" in error:
        os._exit(HUNG)
    gc.collect()
    torch.cuda.empty_cache()


def _told(error: Exception) -> str:
    """A line about a Tune that broke down."""
    if isinstance(error.__cause__, OutOfMemoryError):
        return "a node ran low on memory, and Ray's memory monitor ended trials there"
    return f"Ray Tune broke down: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)
