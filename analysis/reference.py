"""Reference accuracies: what the loss of clean accuracy is measured from.

Always networks trained without a defence: a defence that costs accuracy must not lower its own bar.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.values import MISSING, Value

Policy = Literal["best", "twin", "no_defence"]
NO_TWIN = "no clean twin was measured (poison rate 0 or attack none, no defence): there is no reference accuracy"
ONLY_DEFENDED = "only clean twins under a defence were measured: the reference are those without one"
NO_OWN_TWIN = "a seed has no clean twin of its own setting (poison rate 0 or attack none, no defence)"
NO_TRAINING = "no training without a defence was measured: there is no reference accuracy"


def best_twins(trials: Trials) -> dict[Value, float]:
    """For each data set the best clean twins: max over settings of the mean over seeds of clean accuracy.

    A clean twin is a trial without poison and without defence; those of several attacks at one seed are one. The
    keys are data sets, or (source, data set) where there are several sources.
    """
    by = _present(trials, ["source", "data"])
    best = _best(trials, _clean(trials) & _without_defence(trials), _training_parameters(trials), by)
    result = {}
    for at, accuracy in best.items():
        names = _values_at(trials, dict(zip(by, at[1:], strict=True)))
        result[(names["source"], names.get("data")) if "source" in names else names.get("data")] = accuracy
    return result


def reference_accuracies(trials: Trials, policy: Policy) -> tuple[NDArray[np.float64], str]:
    """The reference accuracy of every trial, NaN where there is none, and why it would be missing.

    best: the best clean twins of the same source and data. twin: the clean twin of the same setting and seed,
    whatever its defence. no_defence: the best mean over seeds of trainings without a defence, at any attack, rate
    and complexity, of the same source, data and network; for tables that hold no clean training.
    """
    plain = _without_defence(trials)
    if policy == "twin":
        return _twin_accuracies(trials, _clean(trials) & plain), NO_OWN_TWIN
    if policy == "no_defence":
        by = _present(trials, ["source", "data", "model.name"])
        best = _best(trials, trials.rows["done"] & plain, list(trials.values), by)
        return _broadcast(trials, best, by), NO_TRAINING
    by = _present(trials, ["source", "data"])
    best = _best(trials, _clean(trials) & plain, _training_parameters(trials), by)
    return _broadcast(trials, best, by), ONLY_DEFENDED if _clean(trials).any() else NO_TWIN


def _clean(trials: Trials) -> "pd.Series[bool]":
    return trials.rows["done"] & (_is(trials, "poison_rate", 0) | _is(trials, "attack.name", "none"))


def _without_defence(trials: Trials) -> "pd.Series[bool]":
    if "defence.name" not in trials.codes:
        return pd.Series(True, index=trials.codes.index)
    return _is(trials, "defence.name", "none") | (trials.codes["defence.name"] == MISSING)


def _training_parameters(trials: Trials) -> list[str]:
    """The parameters of a training that are not its poison's."""
    return [name for name in trials.values if name != "poison_rate" and not name.startswith("attack.")]


def _present(trials: Trials, names: list[str]) -> list[str]:
    return [name for name in names if name in trials.values]


def _best(
    trials: Trials, chosen: "pd.Series[bool]", settings: list[str], by: list[str]
) -> dict[tuple[int, ...], float]:
    """Of the `chosen` trials: max over `settings` of the mean over seeds, for each position of the parameters `by`."""
    table = trials.codes[settings].assign(seed=trials.rows["seed"], accuracy=trials.rows["clean_accuracy"])
    table = table[chosen].assign(all=0)
    seeds = table.groupby(["all", *settings, "seed"])["accuracy"].mean()
    best = seeds.groupby(["all", *settings]).mean().groupby(["all", *by]).max()
    return {tuple(at): float(value) for at, value in zip(best.index.to_frame().to_numpy(), best, strict=True)}


def _broadcast(trials: Trials, best: Mapping[tuple[int, ...], float], by: list[str]) -> NDArray[np.float64]:
    keys = trials.codes[by].assign(all=0)[["all", *by]].to_numpy()
    return np.array([best.get(tuple(key), np.nan) for key in keys.tolist()])


def _twin_accuracies(trials: Trials, twins: "pd.Series[bool]") -> NDArray[np.float64]:
    same = [name for name in _training_parameters(trials) if not name.startswith("defence.")]
    table = trials.codes[same].assign(seed=trials.rows["seed"], accuracy=trials.rows["clean_accuracy"].where(twins))
    result: NDArray[np.float64] = table.groupby([*same, "seed"])["accuracy"].transform("mean").to_numpy(float)
    return result


def _values_at(trials: Trials, at: Mapping[str, int]) -> dict[str, Value]:
    """The values at positions; the source only where there are several."""
    named = {name: None if i == MISSING else trials.values[name][i] for name, i in at.items()}
    return {n: v for n, v in named.items() if n != "source" or len(trials.values["source"]) > 1}


def _is(trials: Trials, name: str, value: Value) -> "pd.Series[bool]":
    values = trials.values[name]
    return trials.codes[name] == (values.index(value) if value in values else len(values))
