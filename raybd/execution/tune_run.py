"""TuneRun: a run of Ray Tune over the trials of a queue; its searcher suggests keys, its callback reports outcomes."""

import contextlib
import json
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from raybd.errors import LostRayError
from raybd.execution.attempt import stopped
from raybd.execution.data_parallel import RESERVED, new_mark, release
from raybd.execution.executor import MAX_ATTEMPTS, RunTrial
from raybd.execution.object_store import pack_configs
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.ray_watch import RayWatch
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.stop_file import StopFile, stop_trials
from raybd.execution.worker import SCORE, run_in_worker
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED

SIGTERM_SAID = "SIGTERM"  # in what Ray says of a worker that was sent one
KEYS_PER_RUN = 5000  # per Tune run, since the driver grows by 44 kB a trial


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
        asked: list[int] | None = None,
    ) -> None:
        """`shared`: references to the packed data sets by name, each in a list, since Ray fetches a bare one; to
        `asked` the signals are added that ask this run to end early."""
        self.queue, self.progress, self.setup, self.resources = queue, progress, setup, resources
        listed = queue.listed[:KEYS_PER_RUN]
        self.listed = {config.key for config in listed}
        parameters = {"configs": pack_configs(listed), "shared": shared, "setup": setup, "function": function}
        trial = tune.with_parameters(run_in_worker, **parameters, resources=resources)
        self.trainable = tune.with_resources(trial, reservation(resources))
        self.folder = setup.folder.path / "tune"
        self.suggested = 0  # number of keys
        self.done = False  # whether the queue is empty
        self.running: set[str] = set()  # keys of trials that have started and not ended
        self.reported: dict[str, Outcome] = {}  # by key, of the current attempt
        self.earlier: dict[str, str] = {}  # by key, the error of the attempt before
        self.marks: dict[str, int] = {}  # by key, of what the ranks of a data-parallel trial hold
        self.asked = [] if asked is None else asked
        self.lost = False  # whether Ray has gone away: what Tune still reports counts no more

    def __getstate__(self) -> dict[str, Any]:
        """An empty state: Tune pickles searcher and callbacks for its own restart, which raybd does not use."""
        return {}

    def fit(self, watch: RayWatch) -> Exception | None:
        """Run Tune to its end, or until a signal ends it; the error that Tune itself raised, if any.

        Raises:
            LostRayError: Ray has gone away.
        """
        try:
            watch.call(self._tuner().fit, self.ask_to_end)
        except LostRayError:
            self.lost = True
            raise
        except Exception as error:  # noqa: BLE001 - Tune raises anything: OutOfMemoryError, EOFError, OSError, ...
            with contextlib.suppress(Exception):  # Ray itself may be gone
                for key in self.running & self.marks.keys():
                    release(self.marks[key])
            return error
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)  # trials have folders of their own
        return None

    def ask_to_end(self, number: int) -> None:
        """Ask Tune, and the trials that run, to end, since signal `number` came; from its handler, so a thread does
        what may wait."""
        self.asked.append(number)
        Thread(target=stop_trials, args=(StopFile.of(self.setup),), daemon=True).start()

    def _tuner(self) -> tune.Tuner:
        searcher: Searcher = KeySearcher(self)
        if (at_once := self.resources.at_once) is not None:
            searcher = ConcurrencyLimiter(searcher, at_once)
        return tune.Tuner(
            self.trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StartInOrder(),  # type: ignore[no-untyped-call]
                num_samples=KEYS_PER_RUN + 1,  # the searcher ends the run
                reuse_actors=True,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
                storage_path=str(self.folder),
                failure_config=tune.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
                stop=WhenAsked(self.asked),
                callbacks=[OutcomeCallback(self)],
                verbose=0,
            ),
        )

    @property
    def full(self) -> bool:
        """Whether this run has suggested all the keys it may."""
        return self.suggested == KEYS_PER_RUN

    def next(self) -> dict[str, Any] | str | None:
        """The next configuration for Tune: a key, with the trial's config if workers do not have it yet."""
        if self.full or self.asked or self.lost:
            return Searcher.FINISHED
        proposal = self.queue.next()
        if isinstance(proposal, TrialConfig):
            self.suggested += 1
            point: dict[str, Any] = {"key": proposal.key}
            if proposal.train.workers > 1:
                point["mark"] = self.marks[proposal.key] = new_mark()
            if self.queue.runs_alone(proposal.key):
                point["alone"] = True
            return point if proposal.key in self.listed else point | {"config": json.dumps(proposal.to_dict())}
        self.done = proposal is Signal.DONE
        return Searcher.FINISHED if self.done else None

    def begin(self, key: str) -> None:
        """Handle the start of an attempt."""
        if self.lost:
            return
        if outcome := self.reported.pop(key, None):
            self.earlier[key] = outcome.error
        self.running.add(key)
        self.progress.started(key)

    def end(self, key: str, died: str) -> None:
        """Handle the end of a trial's last attempt; `died` is the error if it reported nothing.

        One that ended although it had not finished, after it was asked to, is left as it is.
        """
        if self.lost:
            return
        self.progress.ended(key)
        config = self.queue.in_flight[key]
        outcome = self.reported.pop(key, None)
        if self.asked and not (outcome and outcome.finished):
            return
        if outcome is None:
            outcome = death(config, died)
            if key in self.marks:
                release(self.marks[key])
        self.running.discard(key)
        self.queue.tell(replace(outcome, earlier=self.earlier.pop(key, "")))

    def death_reason(self, trial: Any) -> str:
        """Why a worker died without a report: from its crash report, or from Ray's error file."""
        with contextlib.suppress(OSError, IndexError):  # no file, or an empty one where the disk was full
            report = self.setup.folder.trial(trial.config["key"]).crash_report
            return report.read_text().splitlines()[0]
        with contextlib.suppress(OSError, IndexError, TypeError):  # or no file name
            lines = Path(trial.error_file).read_text().strip().splitlines()
            return f"its worker died: {lines[-1].split('Some common causes')[0].strip()[:300]}"
        return "its worker died"


def death(config: TrialConfig, error: str) -> Outcome:
    """The outcome of a trial whose worker died of `error`; one that was sent SIGTERM was asked to end."""
    if SIGTERM_SAID in error:
        return stopped(config, error)
    return Outcome(config.key, config.label, FAILED, error=error, uploaded=False, died=True)


class KeySearcher(Searcher):
    """Tune search algorithm that suggests a queue's keys. Outcomes come by OutcomeCallback."""

    def __init__(self, run: TuneRun) -> None:
        super().__init__(metric=SCORE, mode="max")
        self.run = run

    def suggest(self, trial_id: str) -> Any:
        """A configuration, None to be asked again later, or FINISHED."""
        return self.run.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: trials have records of their own."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing, since nothing was saved."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """As `save`."""


class StartInOrder(FIFOScheduler):
    """First in, first out, at constant cost; FIFOScheduler itself scans all trials at each step."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None, so that Tune starts pending trials in order."""
        return


class WhenAsked(tune.Stopper):
    """Tune stopper that ends the run once a signal has been added to `asked`; Tune pickles and does not copy it."""

    def __init__(self, asked: list[int]) -> None:
        self.asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops one trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the run is to end."""
        return bool(self.asked)


class OutcomeCallback(tune.Callback):
    """Tune callback that passes the events of each attempt to its TuneRun."""

    def __init__(self, run: TuneRun) -> None:
        self.run = run

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt starts."""
        self.run.begin(trial.config["key"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A worker reported."""
        if "outcome" in result:
            self.run.reported[trial.config["key"]] = Outcome.from_json(result["outcome"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt failed and is retried."""
        key = trial.config["key"]
        if key not in self.run.reported:
            self.run.earlier[key] = self.run.death_reason(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial ended; its outcome has been reported."""
        self.run.end(trial.config["key"], "its worker ended without a report")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The last attempt failed."""
        self.run.end(trial.config["key"], self.run.death_reason(trial))


def reservation(resources: Resources) -> Any:
    """The resources that Tune reserves for a trial: none for one of several workers, for which Ray Train reserves.

    One that ran out of its part of a GPU has a whole one when it runs again, alone.
    """
    usual = {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}
    packed = 0 < usual["gpu"] < 1
    if resources.workers == 1 and not packed:
        return usual

    def of_point(point: dict[str, Any]) -> tune.PlacementGroupFactory:
        if "mark" in point:
            return RESERVED
        held = usual | ({"gpu": 1.0} if packed and "alone" in point else {})
        return tune.PlacementGroupFactory([{name.upper(): amount for name, amount in held.items() if amount}])

    return of_point


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)
