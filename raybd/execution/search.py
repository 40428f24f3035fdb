"""A search for a defence's settings by Optuna: a candidate is evaluated on several attacks and seeds.

Each of a candidate's cases is a trial with a record of its own, so a restarted search repeats no finished trial; the
study is in a database that optuna-dashboard can open.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from raybd.defences import DEFENCES, Defence
from raybd.errors import InputError, public
from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Proposal, Proposer, Signal
from raybd.plugins import build, spec
from raybd.trials.config import TrialConfig
from raybd.trials.validate import problems
from raybd.utils.constraints import violations

log = logging.getLogger(__name__)
Space = Callable[[optuna.trial.BaseTrial], dict[str, Any]]  # a trial of Optuna to settings
Evaluate = Callable[[Sequence[TrialConfig], Sequence[Mapping[str, float]]], dict[str, float]]  # cases, their metrics

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, group=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS = {
    "none": math.inf,
    "worst_case": 0.5,
}  # a candidate is pruned at the first case with an attack success above this
DATABASE = "optuna.db"  # in the folder of a sweep
QUESTION = "raybd.question"  # attribute of a study: what it asks
ABANDONED = "abandoned"  # attribute of an Optuna trial: settings enqueued again after a search died
CUT_SHORT = "cut_short"  # attribute: after how many of its cases a candidate was pruned
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search problem: settings of the defence `base`, evaluated on `cases`, optimised for `goals`."""

    name: str
    base: Defence
    cases: Sequence[TrialConfig]
    space: Space
    evaluate: Evaluate
    goals: Mapping[str, str]  # name of a value that `evaluate` returns -> max or min
    first: Mapping[str, Any]  # the settings of the first candidate
    trials: int  # number of candidates
    storage: str  # of the study, as Optuna's URL
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0

    def defence(self, settings: Mapping[str, Any]) -> Defence:
        """`base` with `settings`."""
        return build("defence", DEFENCES, spec(DEFENCES, self.base) | dict(settings))

    @property
    def question(self) -> dict[str, list[str]]:
        """What is asked, besides the name: each parameter's values over the cases, the base, the goals, the space.

        Data sets count by their pixels. The number of candidates, the sampler and the pruner are how it is answered.
        """
        asked: dict[str, list[str]] = {}
        for case in self.cases:
            known = replace(case, data=case.data.split(":")[0]) if case.fingerprint else case
            params = known.params
            for name, value in params.items():
                if f"{name}.content" not in params:  # a file counts by what it holds
                    asked.setdefault(name, []).append(str(value))
        values = {name: sorted(set(found)) for name, found in asked.items() if not name.startswith("defence.")}
        space = FixedTrial(dict(self.first))
        self.space(space)
        ranges = [f"{name} {distribution_to_json(one)}" for name, one in sorted(space.distributions.items())]
        base = json.dumps(spec(DEFENCES, self.base), sort_keys=True)
        return values | {"base": [base], "goals": [f"{m} {n}" for n, m in self.goals.items()], "space": ranges}


def open_study(search: Search) -> optuna.Study:
    """The study of `search`, created if need be; candidates that a killed search was evaluating are enqueued again.

    Raises:
        InputError: its storage cannot be opened, or holds a study of that name that asks something else.
    """
    modes = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    directions = [modes[mode] for mode in search.goals.values()]
    try:
        study = optuna.create_study(
            study_name=search.name,
            storage=optuna.storages.RDBStorage(search.storage),
            directions=directions,
            load_if_exists=True,
        )
    except Exception as error:
        raise InputError(f"the storage {search.storage} of the search cannot be used: {error}") from error
    _check_question(search, study)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={ABANDONED: trial.number})
    study.enqueue_trial(dict(search.first), skip_if_exists=True)
    return study


def _check_question(search: Search, study: optuna.Study) -> None:
    """Raise an InputError that says what differs if `study` asks something else; a new study keeps what it asks."""
    asked, wanted = study.user_attrs.get(QUESTION), search.question
    if asked is None:
        if study.trials:
            log.warning("the study %r does not say what it asked: taken for the same", search.name)
        study.set_user_attr(QUESTION, wanted)
        return
    different = [name for name in {**asked, **wanted} if asked.get(name) != wanted.get(name)]
    if different:
        lines = [f"{name}: {_listed(asked.get(name))} then, {_listed(wanted.get(name))} now" for name in different]
        raise InputError(
            [
                f"the study {search.name!r} in {public(search.storage)} asks something else: choose another --name, or "
                "the options that it was started with",
                *lines,
            ]
        )


def _listed(values: Sequence[str] | None) -> str:
    return ", ".join(values) if values else "none"


def rename_study(folder: Path, old: str, new: str) -> None:
    """Rename the study `old` in the database of a sweep's `folder`, if there is one."""
    path = folder / DATABASE
    if not path.exists():
        return
    storage = f"sqlite:///{path}"
    if old in optuna.get_all_study_names(storage):
        optuna.copy_study(from_study_name=old, from_storage=storage, to_storage=storage, to_study_name=new)
        optuna.delete_study(study_name=old, storage=storage)


def candidates_left(search: Search, study: optuna.Study) -> int:
    """The number of candidates still to be evaluated."""
    ended = study.get_trials(states=ENDED)
    again = sum(ABANDONED in trial.user_attrs for trial in study.get_trials())
    return max(0, search.trials - len(ended) + again)


def whole(study: optuna.Study) -> list[FrozenTrial]:
    """The candidates that ran on all cases: only their values may be compared with one another."""
    return [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if CUT_SHORT not in t.user_attrs]


def tell_study(study: optuna.Study, trial: optuna.Trial, results: Mapping[str, Any], goals: Iterable[str]) -> None:
    """End `trial` with its candidate's `results`, as failed if one of `goals` has no finite value.

    One that was cut short is pruned: samplers too would take its values, of fewer cases, for those of a whole one.
    Given a NaN, Optuna only warns and leaves the trial running for ever, which samplers then avoid.
    """
    for name, value in results.items():
        trial.set_user_attr(name, value)
    values = [results.get(goal, math.nan) for goal in goals]
    if CUT_SHORT in results:
        study.tell(trial, state=TrialState.PRUNED)
    elif all(math.isfinite(value) for value in values):
        study.tell(trial, values)
    else:
        study.tell(trial, state=TrialState.FAIL)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Context in which Optuna logs neither every trial nor warnings of experimental features."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@dataclass
class Candidate:
    """Settings under evaluation: an Optuna trial, its cases, and the metrics of those that have ended."""

    trial: optuna.Trial
    settings: dict[str, Any]
    cases: list[TrialConfig]
    metrics: list[Mapping[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    running: bool = False  # whether its next case is running

    @property
    def case(self) -> TrialConfig:
        """The case that runs, or the next one."""
        return self.cases[len(self.metrics)]


class OptunaProposer(Proposer):
    """Proposer of Optuna's candidates: the cases of a candidate run in sequence, candidates in parallel."""

    needs_metrics = True

    def __init__(self, search: Search, study: optuna.Study) -> None:
        self.search, self.study = search, study
        self.study.sampler = SAMPLERS[search.sampler](
            search.seed + len(study.trials)
        )  # else it would draw the same candidates again
        self.to_start = candidates_left(search, study)  # number of candidates
        self.candidates: list[Candidate] = []  # under evaluation

    def next(self) -> Proposal:
        """The next case of a candidate under evaluation, else the first case of a new one."""
        waiting = next((c for c in self.candidates if not c.running), None) or self._new()
        if waiting is None:
            return Signal.WAIT if self.candidates else Signal.DONE
        waiting.running = True
        return waiting.case

    def tell(self, outcome: Outcome) -> None:
        """Receive the metrics of a case, for every candidate that has it; end complete or pruned ones."""
        for candidate in [c for c in self.candidates if c.running and c.case.key == outcome.key]:
            candidate.running = False
            candidate.seconds += outcome.seconds
            if outcome.finished:
                self._take(candidate, outcome.metrics)
            else:
                self._end(candidate, error=f"{outcome.label}: {outcome.error}")

    @property
    def remaining(self) -> int:
        """The number of cases to come, if no candidate is pruned."""
        started = sum(len(c.cases) - len(c.metrics) - c.running for c in self.candidates)
        return started + self.to_start * len(self.search.cases)

    def _new(self) -> Candidate | None:
        """A new candidate; candidates with invalid settings are ended as failed."""
        while self.to_start:
            self.to_start -= 1
            trial = self.study.ask()
            candidate = Candidate(trial, self.search.space(trial), [])
            try:
                defence = self.search.defence(candidate.settings)
                candidate.cases = [replace(case, defence=defence) for case in self.search.cases]
            except InputError as error:
                self._end(candidate, error=f"{type(error).__name__}: {error}")
                continue
            found = [problem for case in candidate.cases for problem in problems(case)]
            if found := violations(defence) + found:
                self._end(candidate, error="; ".join(dict.fromkeys(found)))
                continue
            self.candidates.append(candidate)
            return candidate
        return None

    def _take(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        candidate.metrics.append(metrics)
        if len(candidate.metrics) == len(candidate.cases):
            self._end(candidate)
        elif metrics["attack_success"] > PRUNERS[self.search.pruner]:
            self._end(candidate, **{CUT_SHORT: len(candidate.metrics)})

    def _end(self, candidate: Candidate, **results: Any) -> None:
        if candidate in self.candidates:
            self.candidates.remove(candidate)
        results |= {"settings": candidate.settings, "seconds": candidate.seconds}
        if "error" not in results:
            results |= self.search.evaluate(candidate.cases, candidate.metrics)
        tell_study(self.study, candidate.trial, results, self.search.goals)
