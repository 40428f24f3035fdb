"""The report of a search: its Pareto front, its winner and the importances of settings, as figures and as a file."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
import optuna
import optuna.visualization.matplotlib as plots
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from raybd.errors import public
from raybd.execution.search import CUT_SHORT, ENDED, Search, is_feasible, name_metrics, whole

REPORT = "search.json"  # in the folder of a sweep
MIN_CANDIDATES = 8  # for importances of settings


def winner(
    study: optuna.Study, wanted: Callable[[Mapping[str, Any]], bool] = lambda settings: True
) -> FrozenTrial | None:
    """The best candidate: the best first goal among the feasible ones, then the best second goal, then the first.

    If none is feasible, the one that exceeds the limits least in all, as Optuna's samplers count. Candidates that were
    cut short do not count.

    Args:
        study: of a search.
        wanted: whether a candidate with these settings may be the one; by default any may.
    """
    complete = [trial for trial in whole(study) if wanted(trial.user_attrs.get("settings", trial.params))]
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]

    def place(trial: FrozenTrial) -> tuple[float, ...]:
        beyond = sum(value for value in trial.constraints.values() if value > 0)
        return beyond, *(sign * value for sign, value in zip(signs, trial.values, strict=True)), trial.number

    return min(complete, key=place, default=None)


def write_search_report(study: optuna.Study, search: Search, chosen: Mapping[str, FrozenTrial], folder: Path) -> None:
    """Write search.json, pareto.png and, where candidates suffice, importances_GOAL.png to `folder`.

    `chosen` names the candidates that are compared in the end, for instance the winner. Front, figures and importances
    are of the candidates that ran on all cases.
    """
    complete, compared = whole(study), _only_whole(study)
    best = {complete[trial.number].number for trial in compared.best_trials}
    ended = study.get_trials(states=ENDED)
    report: dict[str, Any] = {
        "goals": dict(search.goals),
        "limits": dict(search.limits),
        "storage": public(search.storage),
        "chosen": {name: trial.number for name, trial in chosen.items()},
        "candidates": [_candidate(trial, [*search.goals, *search.limits], best) for trial in ended],
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1))
    if complete:
        _save(plots.plot_pareto_front(compared, target_names=list(search.goals)), folder, "pareto")
    for place, goal in enumerate(search.goals if len(complete) >= MIN_CANDIDATES else ()):
        evaluator = FanovaImportanceEvaluator(seed=search.seed)
        axes = plots.plot_param_importances(compared, evaluator, target=_Value(place), target_name=goal)
        _save(axes, folder, f"importances_{goal}")


def add_to_report(folder: Path, **more: Any) -> None:
    """Add entries to the search.json of a sweep's folder."""
    report = json.loads((folder / REPORT).read_text()) | more
    (folder / REPORT).write_text(json.dumps(report, indent=1))


def _only_whole(study: optuna.Study) -> optuna.Study:
    """A study in memory of the whole candidates alone, numbered from 0."""
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(whole(study))
    name_metrics(copy, study.metric_names or [])
    return copy


@dataclass(frozen=True)
class _Value:
    place: int

    def __call__(self, trial: FrozenTrial) -> float:
        return float(trial.values[self.place])


def _candidate(trial: FrozenTrial, names: Sequence[str], best: set[int]) -> dict[str, Any]:
    """What search.json says of a candidate; of one that was cut short, the values over the cases that it ran on."""
    values = {
        name: trial.user_attrs[name]
        for name in dict.fromkeys(names)
        if math.isfinite(trial.user_attrs.get(name, math.nan))
    }
    kept = {name: trial.user_attrs[name] for name in ("seconds", CUT_SHORT, "error") if name in trial.user_attrs}
    settings = trial.user_attrs.get("settings", trial.params)
    told: dict[str, Any] = {"number": trial.number, "front": trial.number in best, "feasible": is_feasible(trial)}
    return told | {"values": values, "settings": settings} | kept


def _save(axes: Any, folder: Path, name: str) -> None:
    figure: matplotlib.figure.Figure = axes.figure
    figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight")
    figure.clear()
