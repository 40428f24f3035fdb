"""A search for a defence's settings by Optuna: what is asked, and the study that holds the answers.

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
from raybd.plugins import build, spec
from raybd.trials.config import TrialConfig
from raybd.types import Data

log = logging.getLogger(__name__)
Space = Callable[[optuna.trial.BaseTrial], dict[str, Any]]  # a trial of Optuna to settings
Metrics = Mapping[str, float]
Evaluate = Callable[[Sequence[TrialConfig], Sequence[Metrics], Mapping[str, Metrics]], dict[str, float]]

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=6, multivariate=True, group=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=8),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
# by how much a candidate may exceed a constraint after some of its cases before it is cut short
PRUNERS = {"none": math.inf, "worst_case": 0.4}
DATABASE = "optuna.db"  # in the folder of a sweep
QUESTION = "raybd.question"  # attribute of a study: what it asks
ABANDONED = "abandoned"  # attribute of an Optuna trial: settings enqueued again after a search died
CUT_SHORT = "cut_short"  # attribute: after how many of its cases a candidate was pruned
BASE = "base"  # attribute: the candidate is the search's base, whatever its parameters can say of it
ENCODER = "encoder"  # parameter of a study: which of the search's encoders a candidate has
SLACK = 1e-9  # a value on its limit is within it, whatever its last bits
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search problem: settings of the defence `base`, evaluated on `cases`, optimised for `goals`.

    `evaluate` gets the cases of a candidate that have ended, their metrics, and the metrics of `controls` by their
    keys; it returns what `goals` and `limits` name, and whatever else is worth keeping.
    """

    name: str
    base: Defence
    cases: Sequence[TrialConfig]
    space: Space
    evaluate: Evaluate
    goals: Mapping[str, str]  # name of a value -> max or min
    first: Sequence[Mapping[str, Any]]  # parameters of the first candidates; the very first is `base`, if any
    trials: int  # number of candidates
    storage: str  # of the study, as Optuna's URL
    controls: Sequence[TrialConfig] = ()  # trials that all candidates are compared with, for instance clean twins
    limits: Mapping[str, float] = field(default_factory=dict)  # name of a value -> the most of a feasible candidate
    encoders: Sequence[Mapping[str, Any]] = ({},)  # settings of encoders, of which each candidate has one
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    data: Mapping[str, Data] = field(default_factory=dict)  # by `TrialConfig.image_set`, to check candidates before

    def settings(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """The settings of a candidate: those of its encoder, and what `space` makes of `trial`; none of the base."""
        if BASE in trial.user_attrs:
            self.space(trial)  # its parameters are told to the sampler all the same
            return {}
        if len(self.encoders) == 1:
            return {**self.encoders[0], **self.space(trial)}
        number = trial.suggest_categorical(ENCODER, list(range(len(self.encoders))))
        return {**self.encoders[number], **self.space(trial)}

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
        base = json.dumps(spec(DEFENCES, self.base), sort_keys=True)
        goals = [f"{mode} {name}" for name, mode in self.goals.items()]
        limits = [f"{name} <= {limit:g}" for name, limit in self.limits.items()]
        encoders = [json.dumps(dict(one), sort_keys=True) for one in self.encoders]
        more = {"base": [base], "goals": goals, "space": self._ranges, "limits": limits, "encoders": encoders}
        return values | {name: lines for name, lines in more.items() if lines}

    @property
    def _ranges(self) -> list[str]:
        """The range of every parameter that the first candidates have."""
        ranges: dict[str, str] = {}
        for one in self.first:
            fixed = FixedTrial(dict(one))
            self.space(fixed)
            ranges |= {name: distribution_to_json(found) for name, found in fixed.distributions.items()}
        return [f"{name} {found}" for name, found in sorted(ranges.items())]


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
    name_metrics(study, list(search.goals))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        base = {BASE: True} if BASE in trial.user_attrs else {}
        study.enqueue_trial(trial.params, user_attrs=base | {ABANDONED: trial.number})
    for number, first in enumerate(search.first):
        study.enqueue_trial(dict(first), user_attrs={} if number else {BASE: True}, skip_if_exists=True)
    return study


def name_metrics(study: optuna.Study, names: list[str]) -> None:
    """Name the values of `study`, for optuna-dashboard and figures, unless they have names."""
    if study.metric_names is None:
        with quiet_optuna():  # Optuna warns that this is experimental
            study.set_metric_names(names)


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


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a candidate keeps every limit of its search."""
    return all(value <= 0 for value in trial.constraints.values())


def draw_encoders(
    space: Space, known: Sequence[Mapping[str, Any]], number: int, seed: int = 0
) -> list[Mapping[str, Any]]:
    """`number` different settings of encoders: the `known` first, then draws from `space`."""
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn = (space(study.ask()) for _ in range(number))
        return [*known, *drawn][:number]


def tell_study(
    study: optuna.Study,
    trial: optuna.Trial,
    results: Mapping[str, Any],
    goals: Iterable[str],
    limits: Mapping[str, float] | None = None,
) -> None:
    """End `trial` with its candidate's `results`, as failed if one of `goals` has no finite value.

    What exceeds its limit is a violated constraint, which samplers learn from, also that of a candidate that was cut
    short. That is pruned: samplers too would take its values, of fewer cases, for those of a whole one.
    Given a NaN, Optuna only warns and leaves the trial running for ever, which samplers then avoid.
    """
    for name, value in results.items():
        trial.set_user_attr(name, value)
    for name, limit in (limits or {}).items():
        if math.isfinite(value := results.get(name, math.nan)):
            trial.set_constraint(name, value - limit - SLACK)
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
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
