"""A search through Ray Tune: Optuna proposes on the driver, workers judge candidates."""

import json
import logging
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from raybd.execution import driver, on_ray
from raybd.execution.attempt import Setup
from raybd.execution.progress import Progress
from raybd.execution.resources import Resources
from raybd.execution.search import Search, Space, judge, sampler, storage, tell
from raybd.execution.watchdog import watchdog

logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)


class Searcher(OptunaSearch):
    """OptunaSearch that leaves no trial running, whatever became of its candidate."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study what the candidate said; nothing, where its worker died."""
        if trial_id not in self._completed_trials:
            self._completed_trials.add(trial_id)
            assert self._ot_study is not None
            tell(self._ot_study, self._ot_trials[trial_id], _said(result), self.metric)


def run(search: Search, study: optuna.Study, plan: driver.Plan, setup: Setup, resources: Resources, count: int) -> bool:
    """Try `count` candidates; says so where Tune gave up, which comes back."""
    shared = {name: on_ray.pack(data) for name, data in plan.data.items()}
    trainable = tune.with_resources(
        tune.with_parameters(_candidate, search=search, shared=shared, setup=setup),
        {"cpu": resources.cpus, "gpu": resources.gpus or 0.0},
    )
    state = plan.folder.path / "tune"
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_searcher(search, study),
            num_samples=count,
            reuse_actors=True,
            max_concurrent_trials=resources.at_once,
        ),
        run_config=tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=str(state),
            callbacks=[_Watcher(Progress(count))],
            verbose=0,
        ),
    )
    if error := on_ray.give_up(tuner.fit):
        print(on_ray.said(error), flush=True)
    shutil.rmtree(state, ignore_errors=True)
    return error is not None


def _searcher(search: Search, study: optuna.Study) -> Searcher:
    return Searcher(
        _Apart(search.space),
        metric=list(search.goals),
        mode=list(search.goals.values()),
        study_name=search.name,
        storage=storage(search.storage),
        sampler=sampler(search, study),
    )


def _candidate(point: dict[str, Any], search: Search, shared: dict[str, dict[str, Any]], setup: Setup) -> None:
    """In a worker: one candidate, one report."""
    data = {name: on_ray.unpack(packed) for name, packed in shared.items()}
    with watchdog(setup.stall_seconds) as heartbeat:
        said = judge(search, point["settings"], data, setup, heartbeat)
    if setup.device == "cuda":
        on_ray.clear_gpu(said.get("error", ""))
    tune.report({"said": json.dumps(said)})  # as text: Tune flattens what is nested


def _said(result: dict[str, Any] | None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((result or {}).get("said") or "{}")
    return said


@dataclass(frozen=True)
class _Apart:
    """A space whose settings come as one value: OptunaSearch mixes what is suggested under other names with them."""

    space: Space

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        return {"settings": self.space(trial)}


class _Watcher(tune.Callback):
    """Shows how far the search is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.progress.started()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.progress.ended("error" not in (_said(trial.last_result) or {"error": ""}))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.progress.ended(False)
        error = str(trial.get_pickled_error() or "its worker died").strip().splitlines()[-1]
        print(f"a candidate died: {error[:300]}", flush=True)
