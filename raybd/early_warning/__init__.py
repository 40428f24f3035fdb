"""The early warning: the probability, early in a training, that a backdoor takes hold in the end; from a file.

A file holds one or several, its stages, which speak after different shares of the training.
`analysis.signal.fit_warning` fits one to the trials of a sweep. raybd comes with two files, of the study in
docs/signal.md: a defender's, and one of somebody who knows the trigger.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raybd.errors import InputError
from raybd.utils.files import expanded, write_errors, write_text

DEFENDER, WITH_TRIGGER = (Path(__file__).with_name(f"{name}.json") for name in ("defender", "with_trigger"))


@dataclass(frozen=True, kw_only=True)
class WarningModel:
    """A logistic regression on the last values of measures in the first `share` of a training.

    p = 1 / (1 + exp(-(intercept + sum_i coefficients_i (x_i - mean_i) / scale_i))), where a missing x_i is median_i.
    """

    measures: Sequence[str]  # names of metrics, as trials log them
    share: float  # of the epochs, in (0, 1]
    sure: float  # a probability from which the warning is sure that it takes hold, and under 1 - sure that it does not
    median: Sequence[float]
    mean: Sequence[float]
    scale: Sequence[float]
    coefficients: Sequence[float]
    intercept: float
    fitted_to: Mapping[str, Any] = field(default_factory=dict)  # trials, cells, attacks; epochs of the trainings

    def probability(self, values: Mapping[str, float]) -> float:
        """The probability in [0, 1] that a backdoor takes hold; NaN where none of the measures is among `values`."""
        known = [values.get(name, math.nan) for name in self.measures]
        if all(map(math.isnan, known)):
            return math.nan
        filled = [median if math.isnan(x) else x for x, median in zip(known, self.median, strict=True)]
        parts = zip(self.coefficients, filled, self.mean, self.scale, strict=True)
        score = self.intercept + sum(c * (x - mean) / scale for c, x, mean, scale in parts)
        return 1 / (1 + math.exp(-score)) if score > -700 else 0.0  # exp(709) is the largest there is

    def is_sure(self, probability: float) -> bool:
        """Whether the warning says yes or no, and does not abstain."""
        return max(probability, 1 - probability) >= self.sure

    def fits(self, epochs: int) -> bool:
        """Whether it was fitted to trainings of so many epochs, neither shorter nor longer; or to none that it tells.

        A backdoor that is learnt at epoch 3 is there after 15 % of 20 epochs and not after 15 % of 10.
        """
        known = self.fitted_to.get("epochs")
        return not known or min(known) <= epochs <= max(known)

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether it speaks after this epoch of so many: at the last one of the first `share`, at least the first."""
        return epoch == due_epoch(self.share, epochs)

    def problems(self) -> list[str]:
        """What is wrong with it; empty if nothing is."""
        numbers = ("median", "mean", "scale", "coefficients")
        wrong = [name for name in numbers if not _finite(getattr(self, name), len(self.measures))]
        problems = [f"{name} must be {len(self.measures)} numbers, one a measure" for name in wrong]
        if not 0 < self.share <= 1:
            problems.append(f"share must be above 0 and at most 1, got {self.share!r}")
        if not 0.5 < self.sure <= 1:
            problems.append(f"sure must be above 0.5 and at most 1, got {self.sure!r}")
        if "scale" not in wrong and not all(scale > 0 for scale in self.scale):
            problems.append("scale must be above 0")
        return problems


def due_epoch(share: float, epochs: int) -> int:
    """The last epoch of the first `share` of so many, at least the first."""
    return max(1, math.floor(share * epochs + 1e-9))  # 0.29 * 100 is a little less than 29


def misfit(stages: Sequence[WarningModel], epochs: int) -> str:
    """To which trainings an early warning was fitted, where others than those of so many epochs; else ""."""
    for stage in stages:
        if not stage.fits(epochs):
            return f"fitted to trainings of {', '.join(map(str, stage.fitted_to['epochs']))} epochs"
    return ""


def stage_due(stages: Iterable[WarningModel], epoch: int, epochs: int) -> WarningModel | None:
    """The stage that speaks after this epoch of so many, the last of several; None where none does."""
    due = [stage for stage in stages if stage.due(epoch, epochs)]
    return max(due, key=lambda stage: stage.share, default=None)


def write_warning(stages: Sequence[WarningModel], path: str | Path) -> Path:
    """Write the stages of an early warning as JSON; where it is.

    Raises:
        InputError: the file cannot be written.
    """
    place = expanded(path)
    with write_errors(place):
        write_text(place, json.dumps([asdict(stage) for stage in stages], indent=1) + "\n")
    return place


def read_warning(path: str | Path) -> tuple[WarningModel, ...]:
    """The stages of the early warning in a file, at least one.

    Raises:
        InputError: there is none.
    """
    try:
        found = json.loads(expanded(path).read_text())
        stages = tuple(WarningModel(**stage) for stage in (found if isinstance(found, list) else [found]))
    except (OSError, ValueError, TypeError) as error:
        said = f"{path} holds no early warning: {error} (raybd signal NAME --fit FILE writes one)"
        raise InputError(said) from error
    if not stages:
        raise InputError(f"{path} holds no early warning: its list is empty (raybd signal NAME --fit FILE writes one)")
    if problems := [problem for stage in stages for problem in stage.problems()]:
        raise InputError([f"{path} holds no early warning: {problem}" for problem in problems])
    return stages


def last_values(history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of each metric in the epochs of a history, as `TrialFolder.history` gives them."""
    found: dict[str, float] = {}
    for line in history:
        found |= line["metrics"]
    return found


def _finite(values: Any, number: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == number and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
