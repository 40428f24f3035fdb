"""The sentences on what information, smoothing and stealthiness showed beside their nulls."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.findings.wording import counted, percent
from analysis.grouping import RunGroup, group_runs, metric_values
from analysis.signatures import Judge, SmoothedGroup, finished_runs, smoothed_groups
from analysis.statistics import LEVEL
from analysis.values import format_value
from raybd.utils.metric_names import CLASS_INFORMATION, DECODABILITY, ISOTROPIC, S1, S_DEV, SIGNATURE
from raybd.utils.statistics import t_interval

Statuses = Mapping[str, str]  # run id -> status of its cell


@dataclass(frozen=True)
class Contrasted:
    """A measure of which the sentences speak, with its null."""

    words: str
    name: str  # of the metric
    null: str  # the end of its null's name
    signed: bool = False  # it may lie on either side of 0, and its null is a size: it is apart where it is larger


INFORMATION = (
    Contrasted("Information (the signature)", SIGNATURE, "/null", signed=True),
    Contrasted("Information (the isotropic signature)", ISOTROPIC, "/null", signed=True),
    Contrasted("Information on the class, I(S;T)", CLASS_INFORMATION, "/permuted"),
)
STEALTHINESS = (
    Contrasted("Stealthiness (S1)", S1, "/null"),
    Contrasted("Stealthiness (S_dev)", S_DEV, "/null"),
    Contrasted("Stealthiness (S2)", DECODABILITY, "/null"),
)


@dataclass(frozen=True)
class Apart:
    """A measure less its null at a setting with poison: mean over seeds and 90 % interval, in nats.

    Of a signed measure it is its part on the side of its mean, less the size that the null has.
    """

    group: RunGroup
    measure: Contrasted
    value: float
    null: float
    difference: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0; of a signed measure, whether it lies above."""
        return self.low > 0 or (self.high < 0 and not self.measure.signed)


def signature_sentences(runs: pd.DataFrame, statuses: Statuses, judge: Judge | None) -> list[str]:
    """At most three sentences, one each on information, smoothing and stealthiness; none on what was not measured."""
    finished = finished_runs(runs)
    groups = [group for group in group_runs(finished) if group.rate > 0] if len(finished) else []
    smoothing = "" if judge is None or not groups else _smoothing(smoothed_groups(runs, judge))
    sentences = [_family(INFORMATION, groups, statuses), smoothing, _family(STEALTHINESS, groups, statuses)]
    return [sentence for sentence in sentences if sentence]


def _family(measures: Sequence[Contrasted], groups: Sequence[RunGroup], statuses: Statuses) -> str:
    """The sentence on the first of `measures` that has values beside its null; else on what kept them away."""
    for measure in measures:
        if found := [one for group in groups if (one := _apart(measure, group))]:
            return _contrast(measure, found, _at_ceiling(measure, groups), statuses)
    ceilings = [(measure, number) for measure in measures if (number := _at_ceiling(measure, groups))]
    if not ceilings:
        return ""
    measure, number = ceilings[0]
    return f"{measure.words} could not be told: at its ceiling at {counted(number, 'setting')} with poison."


def _apart(measure: Contrasted, group: RunGroup) -> Apart | None:
    values, nulls = metric_values(group.runs, measure.name), metric_values(group.runs, measure.name + measure.null)
    known = values.notna() & nulls.notna()
    if not known.any():
        return None
    own, null = values[known].to_numpy(float), nulls[known].to_numpy(float)
    apart = (own * np.sign(own.mean()) if measure.signed else own) - null
    value, expected, difference = (float(numbers.mean()) for numbers in (own, null, apart))
    return Apart(group, measure, value, expected, difference, *t_interval(apart, LEVEL))


def _at_ceiling(measure: Contrasted, groups: Sequence[RunGroup]) -> int:
    """At how many settings no seed has a value since all are at their ceiling."""

    def untold(group: RunGroup) -> bool:
        values, ceiling = (metric_values(group.runs, measure.name + end) for end in ("", "/saturated"))
        return bool(values.isna().all() and (ceiling > 0).any())

    return sum(untold(group) for group in groups)


def _contrast(measure: Contrasted, found: Sequence[Apart], ceiling: int, statuses: Statuses) -> str:
    apart = [one for one in found if one.shown]
    most = max(apart or found, key=lambda one: one.difference if measure.signed else abs(one.difference))
    seeds = "" if any(np.isfinite(one.low) for one in found) else "; one seed tells nothing of how far seeds stray"
    hidden = f"; at its ceiling, and not told, at {counted(ceiling, 'setting')}" if ceiling else ""
    return (
        f"{measure.words} is apart from its null at {_where(found, lambda one: one.shown, statuses)}"
        f" ({'at most' if measure.signed else 'about'} {len(found) * (1 - LEVEL):.1f} by chance); most,"
        f" {_numbers(most)}{seeds}{hidden}."
    )


def _where(found: Sequence[Apart], shown: Callable[[Apart], bool], statuses: Statuses) -> str:
    """At how many settings, those where the backdoor takes hold and the others."""
    taken = [one for one in found if statuses.get(str(one.group.runs["run_id"].iloc[0])) == "backdoored"]
    others = [one for one in found if one not in taken]
    sides = {"where the backdoor takes hold": taken, "with poison where the backdoor is not sure to take hold": others}
    counts = [
        f"{sum(map(shown, side))} of {counted(len(side), 'setting')} {words}" for words, side in sides.items() if side
    ]
    return " and ".join(counts)


def _numbers(one: Apart) -> str:
    interval = f", {one.low:.2f} to {one.high:.2f}" if np.isfinite(one.low) else ""
    against, less = ("against a size of", "size above it") if one.measure.signed else ("against", "difference")
    return f"{one.value:.2f} {against} {one.null:.2f} nats ({less} {one.difference:.2f}{interval}; {_label(one.group)})"


def _label(group: RunGroup) -> str:
    others = {
        name: value for name, value in group.setting.items() if name not in ("attack", "rate") and value is not None
    }
    where = [
        f"{group.setting['attack']} at {percent(group.rate)}",
        *(f"{n}={format_value(v)}" for n, v in others.items()),
    ]
    return ", ".join(where)


def _smoothing(found: Sequence[SmoothedGroup]) -> str:
    """The sentence on smoothing at the largest sigma: at the smallest, clean images mostly vote alike."""
    if not found:
        return ""
    last = [one for one in found if one.sigma == found[-1].sigma]
    counts = Counter(one.result.conclusion for one in last)
    most = max(last, key=lambda one: (one.result.conclusion == "smoothing shown", one.result.gap.mean))
    reversed_ = f", reversed at {counts['reversed']}" if counts["reversed"] else ""
    shown = f"Smoothing (sigma {most.sigma}) is shown at {counts['smoothing shown']} of {counted(len(last), 'setting')}"
    return f"{shown} with poison{reversed_}; the gap is largest at {_gap(most)}{_why_not(last)}."


def _gap(one: SmoothedGroup) -> str:
    gap = one.result.gap
    interval = f", 95% interval {gap.low:.3f} to {gap.high:.3f}" if np.isfinite(gap.low) else ", of one seed"
    clean = f"; {np.mean(one.clean):.3f} on clean twins" if one.clean else ""
    return f"{_label(one.group)} ({gap.mean:.3f} nats{interval}{clean})"


def _why_not(found: Sequence[SmoothedGroup]) -> str:
    """The condition that is missing most often where nothing is shown."""
    missing = Counter(_condition(text) for one in found for text in one.result.missing)
    if not missing:
        return ""
    text, number = missing.most_common(1)[0]
    return f"; most often missing: {text} (at {counted(number, 'setting')})"


def _condition(text: str) -> str:
    """A missing condition without the numbers of its setting."""
    return re.sub(r" ?[\[(](?!s\))[^\])]*[\])]", "", text)
