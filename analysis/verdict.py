"""Verdicts: whether the backdoor takes hold at a setting, with the evidence."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.style import GREY, STYLES
from analysis.values import Value, format_value
from raybd.utils.html import facts

Status = Literal["defended", "kept_out", "backdoored", "uncertain", "unmeasured"]
STATUSES: tuple[Status, ...] = ("defended", "kept_out", "backdoored", "uncertain", "unmeasured")
UNDEFENDED: frozenset[str] = frozenset({"kept_out", "backdoored"})
DECIDED = UNDEFENDED | {"defended"}  # that tell whether the backdoor takes hold


@dataclass(frozen=True)
class Estimate:
    """A rate in [0, 1], or a difference of rates (NaN if unknown), and its 90 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not measured"
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"

    @property
    def points(self) -> str:
        """In points of percent."""
        if math.isnan(self.value):
            return "not known"
        value, low, high = self.in_points
        return f"{value} points ({low} to {high})"

    @property
    def in_points(self) -> tuple[float, float, float]:
        """Value, low and high in points of percent, to one digit, without -0.0."""
        value, low, high = (round(100 * number, 1) + 0.0 for number in (self.value, self.low, self.high))
        return value, low, high

    def row(self, name: str) -> dict[str, float]:
        """Value and ends as columns `name`, `name`_low and `name`_high of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


UNMEASURED = Estimate(math.nan, 0.0, 1.0)
UNKNOWN_DIFFERENCE = Estimate(math.nan, -1.0, 1.0)
RATES = ("clean_accuracy", "attack_success", "accuracy_loss", "attack_success_excess")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the backdoor takes hold at a setting: the status, its reason, the rates and the trials behind them."""

    setting: Mapping[str, Value]  # by short names
    status: Status
    reason: str
    # That the means over seeds are within both thresholds, given the data and a flat prior; NaN if nothing tells it.
    probability: float = math.nan
    clean_accuracy: Estimate = UNMEASURED
    attack_success: Estimate = UNMEASURED
    accuracy_loss: Estimate = UNKNOWN_DIFFERENCE  # under the reference
    attack_success_excess: Estimate = UNKNOWN_DIFFERENCE  # over the clean twins' attack success, over 0 without one
    seeds: int = 0  # finished; of several cells, in the one that has fewest
    evidence: tuple[str, ...] = ()  # run ids, nearest first
    failures: tuple[str, ...] = ()  # "run id: error" of the trials that failed there
    warned: tuple[float, ...] = ()  # of the trials that their early warning stopped: that a backdoor takes hold
    interpolated: bool = False  # read off a surface through measured cells, not measured
    above_twins: bool = True  # whether there were clean twins whose attack success is taken off; without, nothing is

    @property
    def undefended(self) -> bool:
        """Whether the setting is surely not defended: the backdoor takes hold, or accuracy is lost."""
        return self.status in UNDEFENDED

    def __str__(self) -> str:
        where = ", ".join(f"{name}={format_value(value)}" for name, value in self.setting.items())
        if self.status == "unmeasured":
            failed = [f"  failed          {failure}" for failure in self.failures]
            return "\n".join([f"unmeasured at {where or 'any setting'}", f"  why             {self.reason}", *failed])
        twins = (
            f"over its twins' by {self.attack_success_excess.points}" if self.above_twins else "without a clean twin"
        )
        chance = "unknown" if math.isnan(self.probability) else f"{self.probability:.0%}"
        return "\n".join(
            [
                f"{self.status}{' (interpolated)' * self.interpolated} at {where or 'every setting'}",
                f"  clean accuracy  {self.clean_accuracy}, under the reference by {self.accuracy_loss.points}",
                f"  attack success  {self.attack_success}, {twins}",
                f"  probability     {chance} that it is defended",
                f"  why             {self.reason}",
                f"  evidence        {_list_runs(self.evidence)}",
            ]
        )

    def _repr_html_(self) -> str:
        style, where = STYLES[self.status], str(self).split("\n", 1)[0].partition(" at ")[2]
        badge = f"background:{style.face};color:{style.text};border:1px solid {GREY};padding:.1em .5em"
        lines = ((line[:16].strip(), line[16:]) for line in str(self).splitlines()[1:])
        head = f'<b style="{badge}">{self.status}</b>{" (interpolated)" * self.interpolated} at {escape(where)}'
        return f"<div>{head}{facts(lines)}</div>"

    def row(self) -> dict[str, Any]:
        """Status, probability, seeds, both rates and what they are judged by as a row of a table."""
        row: dict[str, Any] = {"status": self.status, "probability": self.probability, "seeds": self.seeds}
        for name in RATES:
            row |= getattr(self, name).row(name)
        return row

    def to_frame(self) -> pd.DataFrame:
        """The setting and the numbers, as a table of one row."""
        return pd.DataFrame([dict(self.setting) | self.row()])

    def to_dict(self) -> dict[str, Any]:
        """All fields but the setting, for JSON."""
        names = ("reason", "evidence", "failures", "warned", "interpolated", "above_twins")
        return self.row() | {name: getattr(self, name) for name in names}


def pooled(verdicts: Sequence[Verdict], setting: Mapping[str, Value], free: Mapping[str, int]) -> Verdict:
    """The conservative verdict on several cells: what holds for every one, and `uncertain` where they differ.

    Args:
        verdicts: one for each cell.
        setting: what the cells have in common.
        free: how many values each axis takes that they differ in.
    """
    counts = Counter(verdict.status for verdict in verdicts)
    over = " x ".join(f"{name} ({number})" for name, number in free.items())
    parts = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    measured = [verdict for verdict in verdicts if verdict.status != "unmeasured"]
    why = "" if measured else f" ({verdicts[0].reason})"
    return Verdict(
        setting=setting,
        status=verdicts[0].status if len(counts) == 1 else "uncertain",
        reason=f"{len(verdicts)} cells match, over {over}: {parts}{why}",
        probability=float(np.min([v.probability for v in measured])) if measured else math.nan,
        clean_accuracy=_hull([v.clean_accuracy for v in measured], UNMEASURED),
        attack_success=_hull([v.attack_success for v in measured], UNMEASURED),
        accuracy_loss=_hull([v.accuracy_loss for v in measured], UNKNOWN_DIFFERENCE),
        attack_success_excess=_hull([v.attack_success_excess for v in measured], UNKNOWN_DIFFERENCE),
        seeds=min((v.seeds for v in measured), default=0),
        evidence=tuple(run for verdict in measured for run in verdict.evidence),
        failures=tuple(failure for verdict in verdicts for failure in verdict.failures),
        warned=tuple(probability for verdict in verdicts for probability in verdict.warned),
        above_twins=all(v.above_twins for v in measured),
    )


def _hull(estimates: Sequence[Estimate], unknown: Estimate) -> Estimate:
    known = [e for e in estimates if not math.isnan(e.value)]
    if not known:
        return unknown
    mean = float(np.mean([e.value for e in known]))
    return Estimate(mean, min(e.low for e in known), max(e.high for e in known))


def _list_runs(runs: Sequence[str], most: int = 5) -> str:
    more = f" and {len(runs) - most} more" if len(runs) > most else ""
    return f"{len(runs)} trials: {', '.join(runs[:most])}{more}"
