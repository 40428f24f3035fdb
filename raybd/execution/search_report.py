"""The report of a search: its Pareto front, its winner and the importances of settings, as figures and as a file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
import optuna
import optuna.visualization.matplotlib as plots
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial

from raybd.errors import public
from raybd.execution.search import CUT_SHORT, ENDED, Search, whole

MIN_CANDIDATES = 8  # for importances of settings


def winner(study: optuna.Study, max_second: float) -> FrozenTrial | None:
    """The best candidate: the best first goal among those whose second goal is at most `max_second`.

    If there is none, the one with the smallest second goal. Pruned candidates do not count; None without any other.
    """
    complete = whole(study)
    allowed = [trial for trial in complete if trial.values[1] <= max_second]
    if allowed:
        return max(allowed, key=lambda trial: (trial.values[0], -trial.values[1], -trial.number))
    return min(complete, key=lambda trial: (trial.values[1], -trial.values[0], trial.number)) if complete else None


def write_search_report(study: optuna.Study, search: Search, chosen: FrozenTrial | None, folder: Path) -> None:
    """Write search.json, pareto.png and, where candidates suffice, importances_GOAL.png to `folder`.

    Front, figures and importances are of the candidates that ran on all cases.
    """
    complete, compared = whole(study), _only_whole(study)
    best = {complete[trial.number].number for trial in compared.best_trials}
    ended = study.get_trials(states=ENDED)
    report: dict[str, Any] = {
        "goals": dict(search.goals),
        "storage": public(search.storage),
        "winner": chosen.number if chosen else None,
        "candidates": [_candidate(trial, search.goals, best) for trial in ended],
    }
    (folder / "search.json").write_text(json.dumps(report, indent=1))
    if complete:
        _save(plots.plot_pareto_front(compared, target_names=list(search.goals)), folder, "pareto")
    for place, goal in enumerate(search.goals if len(complete) >= MIN_CANDIDATES else ()):
        evaluator = FanovaImportanceEvaluator(seed=search.seed)
        axes = plots.plot_param_importances(compared, evaluator, target=_Value(place), target_name=goal)
        _save(axes, folder, f"importances_{goal}")


def _only_whole(study: optuna.Study) -> optuna.Study:
    """A study in memory of the whole candidates alone, numbered from 0."""
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(whole(study))
    return copy


@dataclass(frozen=True)
class _Value:
    place: int

    def __call__(self, trial: FrozenTrial) -> float:
        return float(trial.values[self.place])


def _candidate(trial: FrozenTrial, goals: Mapping[str, str], best: set[int]) -> dict[str, Any]:
    """What search.json says of a candidate; of one that was cut short, the values over the cases that it ran on."""
    values = {name: trial.user_attrs[name] for name in goals if math.isfinite(trial.user_attrs.get(name, math.nan))}
    kept = {name: trial.user_attrs[name] for name in ("seconds", CUT_SHORT, "error") if name in trial.user_attrs}
    settings = trial.user_attrs.get("settings", trial.params)
    return {"number": trial.number, "front": trial.number in best, "values": values, "settings": settings} | kept


def _save(axes: Any, folder: Path, name: str) -> None:
    figure: matplotlib.figure.Figure = axes.figure
    figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight")
    figure.clear()
