"""The report of a search: its Pareto front, its winner and the importances of settings, as figures and as a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
import optuna
import optuna.visualization.matplotlib as plots
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from raybd.errors import public
from raybd.execution.search import Search

FEWEST = 8  # candidates below which importances say nothing


def winner(study: optuna.Study, most: float) -> FrozenTrial | None:
    """Of candidates that saw every case: the best first goal among those whose second is at most `most`.

    Where none is, the one with the least second goal; None where no candidate has numbers.
    """
    whole = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if "cut_short" not in t.user_attrs]
    good = [trial for trial in whole if trial.values[1] <= most]
    if good:
        return max(good, key=lambda trial: (trial.values[0], -trial.values[1], -trial.number))
    return min(whole, key=lambda trial: (trial.values[1], -trial.values[0], trial.number)) if whole else None


def write(study: optuna.Study, search: Search, chosen: FrozenTrial | None, folder: Path) -> None:
    """search.json, pareto_front.png and, where candidates suffice, importances_GOAL.png in `folder`."""
    best = {trial.number for trial in study.best_trials}
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.FAIL))
    said: dict[str, Any] = {
        "goals": dict(search.goals),
        "storage": public(search.storage),
        "winner": chosen.number if chosen else None,
        "candidates": [_line(trial, search.goals, best) for trial in ended],
    }
    (folder / "search.json").write_text(json.dumps(said, indent=1))
    whole = study.get_trials(states=(TrialState.COMPLETE,))
    if whole:
        _save(plots.plot_pareto_front(study, target_names=list(search.goals)), folder, "pareto")
    for place, goal in enumerate(search.goals if len(whole) >= FEWEST else ()):
        judged = FanovaImportanceEvaluator(seed=search.seed)
        axes = plots.plot_param_importances(study, judged, target=_Value(place), target_name=goal)
        _save(axes, folder, f"importances_{goal}")


@dataclass(frozen=True)
class _Value:
    place: int

    def __call__(self, trial: FrozenTrial) -> float:
        return float(trial.values[self.place])


def _line(trial: FrozenTrial, goals: Mapping[str, str], best: set[int]) -> dict[str, Any]:
    values = dict(zip(goals, trial.values, strict=True)) if trial.values else {}
    kept = {name: trial.user_attrs[name] for name in ("seconds", "cut_short", "error") if name in trial.user_attrs}
    settings = trial.user_attrs.get("settings", trial.params)
    return {"number": trial.number, "front": trial.number in best, "values": values, "settings": settings} | kept


def _save(axes: Any, folder: Path, name: str) -> None:
    figure: matplotlib.figure.Figure = axes.figure
    figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight")
    figure.clear()
