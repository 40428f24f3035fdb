"""Reference accuracies: what the loss of clean accuracy is measured from.

Always networks trained without a defence: a defence that costs accuracy must not lower its own bar.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from analysis.records import Trials
from analysis.samples import numbers, pools
from analysis.twins import clean_trials, training_parameters, without_defence

Floats = NDArray[np.float64]
Policy = Literal["best", "twin", "no_defence"]
NO_TWIN = "no clean twin was measured (poison rate 0 or attack none, no defence): there is no reference accuracy"
ONLY_DEFENDED = "only clean twins under a defence were measured: the reference are those without one"
NO_OWN_TWIN = "there is no clean twin of this setting (poison rate 0 or attack none, no defence)"
NO_TRAINING = "no training without a defence was measured: there is no reference accuracy"
TINY = 1e-12
OUT = 0.01  # chance that the best setting is left out of those that may be the best


@dataclass(frozen=True)
class References:
    """The settings that a reference is the best of, one row each, and which of them each trial is measured from."""

    settings: pd.DataFrame  # mean, variance (NaN of one seed), seeds, group, pool (of spread)
    group: NDArray[np.intp]  # (t,) of each trial


def reference_settings(trials: Trials, policy: Policy) -> References:
    """The settings whose best is the reference.

    best: the clean twins, of the same source and data. no_defence: trainings without a defence at any attack, rate and
    complexity, of the same source, data and network; for tables that hold no clean training.
    """
    if policy == "no_defence":
        chosen, settings = trials.rows["done"] & without_defence(trials), list(trials.values)
        return _settings(trials, chosen, settings, ["source", "data", "model.name"])
    chosen = clean_trials(trials) & without_defence(trials)
    return _settings(trials, chosen, training_parameters(trials), ["source", "data"])


def why_missing(trials: Trials, policy: Policy) -> str:
    """Why a cell would have no reference."""
    if policy != "best":
        return NO_OWN_TWIN if policy == "twin" else NO_TRAINING
    return ONLY_DEFENDED if clean_trials(trials).any() else NO_TWIN


def _settings(trials: Trials, chosen: "pd.Series[bool]", settings: Sequence[str], by: Sequence[str]) -> References:
    group = numbers(trials.codes, [name for name in by if name in trials.values])
    table = pd.DataFrame({"setting": numbers(trials.codes, settings), "seed": trials.rows["seed"], "group": group})
    table = table.assign(pool=pools(trials), accuracy=trials.rows["clean_accuracy"])[chosen]
    place = ["setting", "group", "pool"]
    seeds = table.groupby([*place, "seed"])["accuracy"].mean()  # twins of several attacks at one seed are one
    found = seeds.groupby(place).agg(["mean", "var", "count"]).reset_index()
    return References(found.rename(columns={"var": "variance", "count": "seeds"}), group)


def best_of(mean: Floats, squared_error: Floats) -> tuple[float, float]:
    """The largest of the true means of k settings and its variance, from measured means and their squared errors.

    The largest measured mean is too large, the more so the more settings there are. Those that may be the best (not
    below it by more than chance, at 1 % over all) are taken as normal around a common mean, whose variance is that of
    DerSimonian & Laird (Controlled Clinical Trials 7 (1986) 177); each is shrunk towards it (empirical Bayes: Efron &
    Morris, JASA 70 (1975) 311), and the largest shrunk mean is the reference.
    """
    known = ~np.isnan(squared_error)
    if not known.any() or not squared_error[known].any():  # nothing is told of the errors, or there are none
        return float(mean.max()), float(squared_error[known].sum()) if known.any() else float("nan")
    mean, variance = mean[known], np.maximum(squared_error[known], TINY)
    top = int(mean.argmax())
    reach = -ndtri(OUT / max(len(mean) - 1, 1)) * np.sqrt(variance + variance[top])
    near = (mean >= mean[top] - reach) | (np.arange(len(mean)) == top)
    mean, variance = mean[near], variance[near]
    between = _variance_between(mean, variance)
    weight = 1 / (between + variance)
    middle, squared = float(weight @ mean / weight.sum()), float(1 / weight.sum())
    kept = between / (between + variance)
    shrunk = middle + kept * (mean - middle)
    best = int(shrunk.argmax())
    return float(shrunk[best]), float(kept[best] * variance[best] + (1 - kept[best]) ** 2 * squared)


def _variance_between(mean: Floats, variance: Floats) -> float:
    weight = 1 / variance
    spread = float(weight @ (mean - weight @ mean / weight.sum()) ** 2)
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    return max(0.0, (spread - (len(mean) - 1)) / scale) if len(mean) > 1 else 0.0
