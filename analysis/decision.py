"""Decisions: the status of every cell from the probabilities that the backdoor takes hold and that accuracy is lost."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from analysis.accuracy import Accuracy, judge_accuracy
from analysis.reference import Policy
from analysis.samples import Flags, Sample
from analysis.spread import Lending
from analysis.success import Success, judge_success
from analysis.verdict import Status
from raybd.errors import InputError
from raybd.plugins import unknown
from raybd.utils.constraints import InnerShare, Share, violations

Floats = NDArray[np.float64]
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """When a setting counts as defended; rates in [0, 1]."""

    max_accuracy_loss: Share = 0.02  # mean over seeds, below the reference
    max_attack_success: Share = 0.1  # mean over seeds, above that of the clean twins
    reference: Policy = "best"
    min_probability: Annotated[float, Interval(gt=0.5, le=1)] = 0.9  # of a status, to be given
    false_discovery_rate: InnerShare | None = (
        None  # share of wrong ones among the cells called defended; None: not held
    )
    seed_spread: Share | None = None  # deviation between seeds of a rate of 1/2, for cells of one seed; None: measured
    accuracy_spread: Share | None = None  # likewise of clean accuracy; None: seed_spread

    def __new__(cls, **options: Any) -> "DecisionRule":
        """A rule, once every option is known to be one (dataclasses raise a TypeError)."""
        if bad := unknown("option of a map", options, [f.name for f in fields(cls)]):
            raise InputError(bad)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if str(self.reference) == "undefended":  # the word of 0.2
            object.__setattr__(self, "reference", "no_defence")
        if bad := violations(self):
            raise InputError(bad)

    @property
    def success_logits(self) -> float:
        """Deviation of the logit of attack success where a cell has one seed; NaN if it is not stated."""
        return _logits(self.seed_spread)

    @property
    def accuracy_logits(self) -> float:
        """Likewise of clean accuracy."""
        return _logits(self.seed_spread if self.accuracy_spread is None else self.accuracy_spread)


@dataclass(frozen=True)
class Decisions:
    """Of each of c cells: both rates, what they are judged by, and the status."""

    poisoned: Flags
    success: Success
    accuracy: Accuracy
    probability: Floats  # that the setting is defended; NaN where nothing tells it
    status: list[Status]
    discovered: Flags  # whether the false discovery rate lets it be called defended


def decide(sample: Sample, rule: DecisionRule) -> Decisions:
    """The decisions on all cells of a map."""
    poisoned = sample.poisoned
    lending = lend(sample)
    success = judge_success(sample, lending, rule.max_attack_success, rule.success_logits)
    accuracy = judge_accuracy(sample, lending, rule.reference, rule.max_accuracy_loss, rule.accuracy_logits)
    above, within = np.where(poisoned, success.above, 0.0), np.where(poisoned, success.within, 1.0)
    measured = np.bincount(sample.cell, sample.done, sample.cells) > 0
    discovered = np.ones(sample.cells, bool)
    if rule.false_discovery_rate is not None:
        wrong = np.maximum(1 - within, accuracy.lost)
        discovered = ~poisoned | discoveries(wrong, poisoned & measured, rule.false_discovery_rate)
    chances = {"defended": within * (1 - accuracy.lost), "kept_out": within * accuracy.lost, "backdoored": above}
    given = {name: chance >= rule.min_probability - ROUNDING for name, chance in chances.items()}
    given["defended"] &= discovered
    status = np.select([~measured, *given.values()], ["unmeasured", *given], "uncertain")
    return Decisions(poisoned, success, accuracy, chances["defended"], status.tolist(), discovered)


def lend(sample: Sample) -> Lending:
    """How the spread of the cells of a map is moderated: by the poisoned ones, since twins of many attacks are one."""
    return Lending(sample.group, sample.poisoned if sample.poisoned.any() else ~sample.poisoned)


def discoveries(p_values: Floats, tested: Flags, rate: float) -> Flags:
    """Which of the cells `tested` (c,) may be called defended at this false discovery rate.

    Benjamini & Hochberg (JRSS B 57 (1995) 289) on one-sided p-values: the k smallest of m, with the largest k whose
    p-value is at most rate k / m. A cell's p-value is the larger of its two, that the backdoor does take hold and that
    accuracy is lost (intersection-union test: Berger, Technometrics 24 (1982) 295). A cell that cannot be told has 1.
    """
    known = np.where(np.isnan(p_values), 1.0, p_values)[tested]
    ordered = np.sort(known)
    within = ordered <= rate * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    result = np.zeros(len(tested), bool)
    result[tested] = known <= (ordered[within].max() if within.any() else -1.0)
    return result


def _logits(spread: float | None) -> float:
    """Deviation of the logit of a rate whose own deviation is `spread` at one half, where the slope is 1/4."""
    return float("nan") if spread is None else 4 * spread
