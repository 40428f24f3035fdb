"""The acceptance rule for "this backdoor smooths the network": over training seeds and against its controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raybd.utils.statistics import t_interval

MIN_SEEDS = 5  # gaps of different seeds differ more than the points of one network say
LEVEL = 0.95
Conclusion = Literal["smoothing shown", "not shown", "reversed"]


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds, in nats, with Student's t interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SmoothingConclusion:
    """The conclusion from all seeds, and every condition that is missing for "smoothing shown"."""

    conclusion: Conclusion
    gap: MeanInterval
    missing: tuple[str, ...]


def seed_interval(values: Sequence[float]) -> MeanInterval:
    """Mean of one number a training seed with its 95 % interval (t, seeds - 1 degrees); unbounded for one seed."""
    sample = np.asarray(values, dtype=float)
    return MeanInterval(float(sample.mean()), *t_interval(sample, LEVEL))


def judge_smoothing(
    gaps: Sequence[float], clean_gaps: Sequence[float], controls: Mapping[str, Sequence[float]]
) -> SmoothingConclusion:
    """The conclusion by the acceptance rule, from one gap a seed, all in the same order of seeds.

    Smoothing is shown when the trigger's gap is above 0 by its interval over at least five seeds, above the gap of
    every non-adversarial control (random patch, moved patch, random direction) by the interval of their paired
    difference, and the same trigger's mean gap on clean networks is not above 0. It is reversed when over at least
    five seeds the interval lies below 0, and that of the paired difference from the clean networks' gap does too: a
    trigger may make any network rougher. Adversarial patterns are no controls: they find the backdoor again.

    Args:
        gaps: W(clean) - W(triggered), mean over points.
        clean_gaps: the same on clean twins; empty if not measured.
        controls: the gap of each control by name; empty if none was measured.

    Raises:
        ValueError: no gap, a number that is not finite, or a control that has not a value for every seed.
    """
    _validate(gaps, clean_gaps, controls)
    gap = seed_interval(gaps)
    missing = [*_weaknesses(gaps, gap), *_clean_weaknesses(clean_gaps), *_control_weaknesses(gaps, controls)]
    if not missing:
        return SmoothingConclusion("smoothing shown", gap, ())
    conclusion: Conclusion = "reversed" if _is_reversed(gaps, gap, clean_gaps) else "not shown"
    return SmoothingConclusion(conclusion, gap, tuple(missing))


def _is_reversed(gaps: Sequence[float], gap: MeanInterval, clean_gaps: Sequence[float]) -> bool:
    if len(gaps) < MIN_SEEDS or not len(clean_gaps):
        return False
    return gap.high < 0 and seed_interval(np.subtract(gaps, clean_gaps).tolist()).high < 0


def _validate(gaps: Sequence[float], clean_gaps: Sequence[float], controls: Mapping[str, Sequence[float]]) -> None:
    if not len(gaps):
        raise ValueError("no gap to conclude from")
    for name, values in {"the trigger": gaps, "the clean twins": clean_gaps, **controls}.items():
        if len(values) not in (0, len(gaps)) or (name in controls and not len(values)):
            raise ValueError(f"{name}: {len(values)} gaps for {len(gaps)} seeds")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: a gap is not finite: {list(values)}")


def _weaknesses(gaps: Sequence[float], gap: MeanInterval) -> list[str]:
    found = [] if len(gaps) >= MIN_SEEDS else [f"{len(gaps)} seed(s) of at least {MIN_SEEDS}"]
    return found if gap.low > 0 else [*found, f"the gap's interval [{gap.low:.3g}, {gap.high:.3g}] is not above 0"]


def _clean_weaknesses(clean_gaps: Sequence[float]) -> list[str]:
    if not len(clean_gaps):
        return ["the trigger on clean twins is not measured"]
    mean = float(np.mean(clean_gaps))
    return [] if mean <= 0 else [f"the trigger smooths clean twins too (mean gap {mean:.3g})"]


def _control_weaknesses(gaps: Sequence[float], controls: Mapping[str, Sequence[float]]) -> list[str]:
    if not controls:
        return ["no control pattern is measured"]
    apart = {name: seed_interval(np.subtract(gaps, values).tolist()) for name, values in controls.items()}
    return [f"not above the gap of {name}" for name, interval in apart.items() if not interval.low > 0]
