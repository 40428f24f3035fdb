"""Optuna searching a defence's settings: one candidate is judged by several attacks and seeds.

Each of a candidate's cases is a trial with records of its own, so that a search that
is started again repeats none that has finished; the study lies in a database that optuna-dashboard can open.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import TrialState

from raybd.defences import DEFENCES, Defence
from raybd.errors import InputError
from raybd.execution import driver
from raybd.execution.attempt import Setup, run_attempt
from raybd.execution.progress import Progress
from raybd.execution.resources import Resources
from raybd.plugins import build, spec
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED
from raybd.types import Data

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", ExperimentalWarning)  # of drawings, and of the sampler for settings that depend

Space = Callable[[optuna.Trial], dict[str, Any]]  # a trial of Optuna to settings; of a module that can be imported
Judge = Callable[[Sequence[TrialConfig], Sequence[Mapping[str, float]]], dict[str, float]]  # cases, their metrics

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, group=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS = {"none": math.inf, "worst_case": 0.5}  # a candidate ends at the first case with an ASR above this
ABANDONED = "abandoned"  # attribute of a trial whose search died: its settings were put in line again


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched: the settings of `base`, judged on `cases`, for the best values of `goals`."""

    name: str
    base: Defence
    cases: Sequence[TrialConfig]
    space: Space
    judge: Judge
    goals: Mapping[str, str]  # what `judge` says -> max or min
    first: Mapping[str, Any]  # the settings that are tried first
    trials: int
    storage: str  # of the study, as Optuna's URL
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0

    def defence(self, settings: Mapping[str, Any]) -> Defence:
        """`base` with `settings`."""
        return build("defence", DEFENCES, spec(DEFENCES, self.base) | dict(settings))


def open_study(search: Search) -> optuna.Study:
    """The study of `search`, made if need be; settings that a dead search was busy with are put in line again.

    Raises:
        InputError: its storage cannot be opened, or holds a study with other goals.
    """
    ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    directions = [ways[mode] for mode in search.goals.values()]
    try:
        study = optuna.create_study(
            study_name=search.name, storage=storage(search.storage), directions=directions, load_if_exists=True
        )
    except Exception as error:
        raise InputError(f"the storage {search.storage} of the search cannot be used: {error}") from error
    if study.directions != directions:
        raise InputError(f"the study {search.name!r} in {search.storage} has other goals: choose another --name")
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={ABANDONED: trial.number})
    study.enqueue_trial(dict(search.first), skip_if_exists=True)
    return study


def left(search: Search, study: optuna.Study) -> int:
    """How many candidates are still to be tried."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    again = sum(ABANDONED in trial.user_attrs for trial in study.get_trials())
    return max(0, search.trials - len(ended) + again)


def judge(
    search: Search, settings: Mapping[str, Any], data: Mapping[str, Data], setup: Setup, heartbeat: Callable[[], None]
) -> dict[str, Any]:
    """What a candidate's cases say of it; a case that fails gives no numbers, and its error."""
    start, seen = time.monotonic(), list[Mapping[str, float]]()
    said: dict[str, Any] = {"settings": dict(settings)}
    try:
        cases = [replace(case, defence=search.defence(settings)) for case in search.cases]
        for case in cases:
            seen.append(_measured(case, data[case.data], setup, heartbeat))
            if seen[-1]["attack_success"] > PRUNERS[search.pruner]:
                said["cut_short"] = len(seen)
                break
        said |= search.judge(cases, seen)
    except Exception as error:  # noqa: BLE001 - a candidate that cannot be tried is a fact about the space
        said["error"] = f"{type(error).__name__}: {error}"[:500]
    return said | {"seconds": time.monotonic() - start}


def _measured(case: TrialConfig, data: Data, setup: Setup, heartbeat: Callable[[], None]) -> Mapping[str, float]:
    outcome = run_attempt(
        case, data, setup, heartbeat
    )  # nothing where it has finished; of two that are the same, one waits
    if outcome.status != FINISHED:
        raise RuntimeError(f"{case.label}: {outcome.error}")
    record = setup.folder.trial(case.key).read()
    return record.metrics if record else {}


def tell(study: optuna.Study, trial: optuna.Trial, said: Mapping[str, Any], goals: Iterable[str]) -> None:
    """End `trial` with everything that its candidate said: as failed, where a goal has no number.

    Of a NaN Optuna only warns and leaves the trial running for ever, and samplers keep away from it.
    """
    for name, value in said.items():
        trial.set_user_attr(name, value)
    values = [said.get(goal, math.nan) for goal in goals]
    if all(math.isfinite(value) for value in values):
        study.tell(trial, values)
    else:
        study.tell(trial, state=TrialState.FAIL)


def run(search: Search, plan: driver.Plan, setup: Setup, resources: Resources | None) -> optuna.Study:
    """Try candidates until there are as many as asked for, on Ray, or in this process without `resources`.

    A Tune that gives up is started again, as long as candidates still end.

    Raises:
        KeyboardInterrupt: the search was interrupted; it goes on when it is run again.
    """
    study, idle = open_study(search), 0
    print(
        f"search: {search.trials - left(search, study)} candidates are done, {left(search, study)} to try", flush=True
    )
    while (count := left(search, study)) and idle < driver.GIVE_UPS:
        if resources is None:
            _inline(search, study, plan, setup, count)
        else:
            from raybd.execution import search_on_ray  # imported late: who runs inline needs no Ray

            gave_up = search_on_ray.run(search, study, plan, setup, resources, count)
            if left(search, study) and not gave_up:  # else Tune ends early on Ctrl-C only, which it keeps to itself
                raise KeyboardInterrupt
        idle = idle + 1 if left(search, study) == count else 0
    return study


def sampler(search: Search, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """The sampler that `search` names; a search that goes on must not draw once more what it began with."""
    return SAMPLERS[search.sampler](search.seed + len(study.trials))


def storage(url: str) -> optuna.storages.BaseStorage:
    """The database at an SQLAlchemy `url`."""
    return optuna.storages.RDBStorage(url)


def _inline(search: Search, study: optuna.Study, plan: driver.Plan, setup: Setup, count: int) -> None:
    progress = Progress(count)
    study.sampler = sampler(search, study)
    for _ in range(count):
        trial = study.ask()
        settings = search.space(trial)
        progress.started()
        said = judge(search, settings, plan.data, setup, lambda: None)
        tell(study, trial, said, search.goals)
        progress.ended("error" not in said)
