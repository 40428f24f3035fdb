"""Clean twins: the trials at poison rate 0 beside each trial, of its own seed and of the other seeds of its setting."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.samples import holds, numbers
from analysis.values import MISSING

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Twins:
    """One rate of the twins of each of t trials; NaN where there are none."""

    own: Floats  # (t,) of the same setting and seed
    mean: Floats  # (t,) over all twins of the setting
    number: Floats  # (t,) of these


def success_twins(trials: Trials) -> Twins:
    """Attack success of the clean twins: poison rate 0, the same in all else, the attack and the defence included."""
    clean = trials.rows["done"] & holds(trials, "poison_rate", 0)
    same = [name for name in trials.values if name != "poison_rate"]
    return _twins(trials, trials.rows["attack_success"].where(clean), same)


def accuracy_twins(trials: Trials) -> Twins:
    """Clean accuracy of the clean twins without a defence: the same training, under whatever attack's name."""
    chosen = clean_trials(trials) & without_defence(trials)
    same = [name for name in training_parameters(trials) if not name.startswith("defence.")]
    return _twins(trials, trials.rows["clean_accuracy"].where(chosen), same)


def clean_trials(trials: Trials) -> "pd.Series[bool]":
    """Which trials finished without poison."""
    return trials.rows["done"] & (holds(trials, "poison_rate", 0) | holds(trials, "attack.name", "none"))


def without_defence(trials: Trials) -> "pd.Series[bool]":
    """Which trials have no defence."""
    if "defence.name" not in trials.codes:
        return pd.Series(True, index=trials.codes.index)
    return holds(trials, "defence.name", "none") | (trials.codes["defence.name"] == MISSING)


def training_parameters(trials: Trials) -> list[str]:
    """The parameters of a training that are not its poison's."""
    return [name for name in trials.values if name != "poison_rate" and not name.startswith("attack.")]


def _twins(trials: Trials, rates: "pd.Series[float]", same: Sequence[str]) -> Twins:
    """The twins among `rates` (NaN for a trial that is none), alike in the parameters `same`, one for each seed."""
    setting = numbers(trials.codes, same)
    table = pd.DataFrame({"setting": setting, "seed": trials.rows["seed"], "rate": rates})
    own = table.groupby(["setting", "seed"])["rate"].mean()
    by_setting = own.groupby("setting")
    mean, number = (np.asarray(part.reindex(setting), float) for part in (by_setting.mean(), by_setting.count()))
    place = pd.MultiIndex.from_frame(table[["setting", "seed"]])
    return Twins(own.reindex(place).to_numpy(float), mean, number)
