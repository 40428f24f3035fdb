"""A run of Ray Tune over the trials of a queue: hands out their keys, and tells the queue their outcomes."""

import contextlib
import json
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from raybd.execution.data_parallel import RESERVED
from raybd.execution.executor import ATTEMPTS, RunTrial
from raybd.execution.object_store import pack_configs
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.worker import SCORE, run_in_worker
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED

KEYS_PER_RUN = 5000  # of one Tune run, whose driver grows by 44 kB a trial


class TuneRun:
    """One run of Tune over at most KEYS_PER_RUN trials of a queue."""

    def __init__(
        self,
        queue: TrialQueue,
        progress: Progress,
        setup: TrialSetup,
        resources: Resources,
        shared: dict[str, list[Any]],
        function: RunTrial,
    ) -> None:
        """`shared`: references to the packed data sets by name, each in a list, since Ray fetches a bare one."""
        self.queue, self.progress, self.setup, self.resources = queue, progress, setup, resources
        self.listed = {config.key for config in queue.listed[:KEYS_PER_RUN]}
        configs = pack_configs(queue.listed[:KEYS_PER_RUN])
        parameters = {"configs": configs, "shared": shared, "setup": setup, "function": function}
        trial = tune.with_parameters(run_in_worker, **parameters, resources=resources)
        self.trainable = tune.with_resources(trial, reservation(resources))
        self.folder = setup.folder.path / "tune"
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
        searcher: Searcher = KeySearcher(self)
        if (at_once := self.resources.at_once) is not None:
            searcher = ConcurrencyLimiter(searcher, at_once)
        tuner = tune.Tuner(
            self.trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StartInOrder(),  # type: ignore[no-untyped-call]
                num_samples=KEYS_PER_RUN + 1,  # the searcher ends it
                reuse_actors=True,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                storage_path=str(self.folder),
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                callbacks=[OutcomeCallback(self)],
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
            report = self.setup.folder.trial(trial.config["key"]).crash_report
            return report.read_text().splitlines()[0]
        with contextlib.suppress(OSError, IndexError, TypeError):  # or no name of one
            said = Path(trial.error_file).read_text().strip().splitlines()
            return f"its worker died: {said[-1].split('Some common causes')[0].strip()[:300]}"
        return "its worker died"


class KeySearcher(Searcher):
    """Tune's search algorithm: the keys of a queue. Outcomes come by the callback, which hears of every attempt."""

    def __init__(self, run: TuneRun) -> None:
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


class StartInOrder(FIFOScheduler):
    """First in, first out. FIFOScheduler itself looks through all trials there ever were at each step."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune then starts what is pending, in order."""
        return


class OutcomeCallback(tune.Callback):
    """What Tune says of each attempt, to the run."""

    def __init__(self, run: TuneRun) -> None:
        self.run = run

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt begins."""
        self.run.begin(trial.config["key"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker reported."""
        if "outcome" in result:
            self.run.reported[trial.config["key"]] = Outcome.from_json(result["outcome"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt failed, and there will be another."""
        key = trial.config["key"]
        if key not in self.run.reported:
            self.run.earlier[key] = self.run.why(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ended; its outcome has been reported."""
        self.run.end(trial.config["key"], "it ended without a report")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The last attempt failed."""
        self.run.end(trial.config["key"], self.run.why(trial))


def reservation(resources: Resources) -> Any:
    """What Tune reserves for a trial: nothing where the trial has several workers, which Ray Train reserves for."""
    alone = {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}
    if resources.workers == 1:
        return alone
    bundle = {name.upper(): amount for name, amount in alone.items() if amount}
    return lambda point: RESERVED if "workers" in point else tune.PlacementGroupFactory([bundle])


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)
