"""Tables of information, stealthiness and smoothing over the runs of a sweep: means over seeds, with their nulls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.grouping import RATE, RunGroup, group_runs, metric_values
from analysis.text_table import align_columns, format_mean_std
from raybd.utils.metric_names import (
    ATTACK_SUCCESS,
    CLASS_INFORMATION,
    DECODABILITY,
    FRESH,
    GAP,
    ISOTROPIC,
    S1,
    S_DEV,
    SEMANTICS,
    SIGNATURE,
)

SEED = "params.seed"
CONTROLS = ("random_patch", "moved_patch", "random_direction")
Judge = Callable[[Sequence[float], Sequence[float], Mapping[str, Sequence[float]]], Any]


@dataclass(frozen=True)
class Measure:
    """A column of the table of signatures: a metric in nats, and those of its nulls that it has."""

    heading: str
    name: str
    nulls: tuple[
        str, ...
    ] = ()  # the ends of their names: /permuted is labels in random order, /null what holds no poison
    read: bool = False  # at a resolution, NAME/s: numbers of different ones are not comparable

    @property
    def flag(self) -> str:
        """The metric that is 1 where it is at its ceiling; of a lower bound it stands beside both bounds."""
        return f"{self.name.removesuffix('/lower')}/saturated"

    def logged(self, runs: pd.DataFrame) -> bool:
        """Whether any run has it, or could have if it were not at its ceiling."""
        return any(f"metrics.{name}" in runs for name in (self.name, self.flag))

    def cell(self, runs: pd.DataFrame) -> str:
        """Mean ± deviation over `runs`, of one seed each, the mean of each null in brackets, and where it was read.

        ">=" where a value is at its ceiling, and so only a bound; "cannot be told" where there is no value because
        what it is built on was at its ceiling.
        """
        values, saturated = (np.array(metric_values(runs, name)) for name in (self.name, self.flag))
        if np.isnan(values).all():
            return "cannot be told" if (saturated > 0).any() else "-"
        bound = ">= " if (saturated[~np.isnan(values)] > 0).any() else ""
        nulls = [metric_values(runs, self.name + end) for end in self.nulls]
        expected = "; ".join(f"{np.nanmean(null):.2f}" for null in nulls if not np.isnan(null).all())
        return f"{bound}{format_mean_std(values.tolist(), 1, 2)}{f' ({expected})' * bool(expected)}{self._place(runs)}"

    def _place(self, runs: pd.DataFrame) -> str:
        """The resolution, or from which to which."""
        places = sorted({s for s in metric_values(runs, f"{self.name}/s") if not np.isnan(s)}) if self.read else []
        return " at s " + " to ".join(f"{s:g}" for s in dict.fromkeys((places[0], places[-1]))) if places else ""


MEASURES = (
    Measure("signature", SIGNATURE, ("/null",), read=True),
    Measure("isotropic", ISOTROPIC, ("/null",), read=True),
    Measure("I(X;T)", f"mi/xt/{FRESH}"),
    Measure("I(T;Y) from", f"mi/ty/{FRESH}/lower"),
    Measure("to", f"mi/ty/{FRESH}/upper"),
    Measure("I(S;T)", CLASS_INFORMATION, ("/permuted",)),
    Measure("S1", S1, ("/null",)),
    Measure("S_dev", S_DEV, ("/null",)),
    Measure("S2", DECODABILITY, ("/permuted", "/null")),
    Measure("I(S;T|B=1)", SEMANTICS, ("/permuted", "/null")),
)


def signature_table(runs: pd.DataFrame) -> str:
    """The lines of `signature_lines` as text; "" where there are none."""
    return align_columns(signature_lines(runs))


def signature_lines(runs: pd.DataFrame) -> list[list[str]]:
    """A heading, and one line a setting with poison: information and stealthiness of its backdoor at the last epoch.

    `runs` as `raybd.tracking.load_runs` gives them. Nats, mean ± deviation over seeds; in brackets the means of nulls:
    labels in random order, where it is information on labels, the clean twin, or triggers that hold no backdoor. Empty
    where there are no such numbers.
    """
    groups = [group for group in group_runs(finished_runs(runs)) if group.rate > 0]
    shown = [m for m in MEASURES if any(m.logged(g.runs) for g in groups)]
    if not shown:
        return []
    lines = [[*groups[0].setting, "seeds", *(measure.heading for measure in shown)]]
    lines += [[*g.cells(), str(g.seeds), *(m.cell(g.runs) for m in shown)] for g in groups]
    return lines


@dataclass(frozen=True)
class SmoothedGroup:
    """The gap W(clean) - W(triggered) of a setting with poison at one sigma, in nats, and what it shows."""

    group: RunGroup
    sigma: str
    gaps: "pd.Series[float]"  # by seed
    clean: tuple[float, ...]  # on clean twins; empty where not measured for every seed
    controls: Mapping[str, list[float]]  # of each control pattern, for every seed
    result: Any  # what the judge concluded


def smoothed_groups(runs: pd.DataFrame, judge: Judge) -> list[SmoothedGroup]:
    """The settings with poison at which smoothing was measured, by sigma, smallest first.

    The gap on clean twins is that of the twin of each trial where it was measured, else that of the runs at rate 0.
    """
    groups = group_runs(finished_runs(runs)) if smoothing_sigmas(runs) else []
    clean = {group.key({RATE}): group for group in groups if group.rate == 0}
    found = []
    for sigma in smoothing_sigmas(runs):
        for group in groups:
            gaps = _gaps(group, "triggered", sigma).dropna()
            if group.rate > 0 and len(gaps):
                found.append(_smoothed(group, sigma, gaps, clean.get(group.key({RATE})), judge))
    return found


def _smoothed(
    group: RunGroup, sigma: str, gaps: "pd.Series[float]", clean: RunGroup | None, judge: Judge
) -> SmoothedGroup:
    twins = _gaps(group, "twin_triggered", sigma)
    if twins.isna().all() and clean is not None:
        twins = _gaps(clean, "triggered", sigma)
    twins = twins.reindex(gaps.index)
    controls = {name: _gaps(group, name, sigma).reindex(gaps.index) for name in CONTROLS}
    known = {name: values.tolist() for name, values in controls.items() if values.notna().all()}
    on_clean = tuple(twins.tolist()) if twins.notna().all() else ()
    return SmoothedGroup(group, sigma, gaps, on_clean, known, judge(gaps.tolist(), on_clean, known))


def smoothing_table(runs: pd.DataFrame, judge: Judge) -> str:
    """The lines of `smoothing_lines` as text; "" where there are none."""
    return align_columns(smoothing_lines(runs, judge))


def smoothing_lines(runs: pd.DataFrame, judge: Judge) -> list[list[str]]:
    """A heading, and one line a setting with poison and sigma: the gap W(clean) - W(triggered) in nats, and `judge`'s
    conclusion. Empty where the runs hold no such numbers.
    """
    found = smoothed_groups(runs, judge)
    heads = ["sigma", "seeds", "gap (nats), 95 %", "on clean twins", "largest control", "verdict"]
    lines = [[*one.group.cells(), one.sigma, *_conclusion_columns(one)] for one in found]
    return [[*found[0].group.setting, *heads], *lines] if found else []


def smoothing_sigmas(runs: pd.DataFrame) -> list[str]:
    """The sigmas at which the gap of the trigger was measured, smallest first."""
    start = f"metrics.{GAP}/triggered/sigma_"
    return sorted((str(name).removeprefix(start) for name in runs if str(name).startswith(start)), key=float)


def smoothing_gaps(runs: pd.DataFrame, sigma: str) -> pd.DataFrame:
    """The poisoned trials as `raybd.metrics.smoothing.figures.draw_gaps` takes them."""
    groups = [group for group in group_runs(finished_runs(runs)) if group.rate > 0]
    parts = [
        pd.DataFrame(
            {
                "attack": group.label,
                "poison_rate": group.rate,
                "attack_success": group.runs[f"metrics.{ATTACK_SUCCESS}"],
                "gap": group.runs[f"metrics.{GAP}/triggered/sigma_{sigma}"],
            }
        )
        for group in groups
    ]
    return pd.concat(parts).dropna() if parts else pd.DataFrame(columns=["attack", "poison_rate", "gap"])


def finished_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of `runs` that have finished."""
    return runs[runs["status"] == "FINISHED"]


def _gaps(group: RunGroup, variant: str, sigma: str) -> "pd.Series[float]":
    """The gap of a variant by seed."""
    values = metric_values(group.runs, f"{GAP}/{variant}/sigma_{sigma}").set_axis(group.runs[SEED])
    return values.groupby(level=0).mean()


def _conclusion_columns(found: SmoothedGroup) -> list[str]:
    gap, controls = found.result.gap, found.controls
    largest = max(controls, key=lambda name: float(np.mean(controls[name])), default="")
    control = f"{largest} {np.mean(controls[largest]):.3f}" if largest else "-"
    clean = f"{np.mean(found.clean):.3f}" if found.clean else "-"
    interval = f"{gap.mean:.3f} [{gap.low:.3f}, {gap.high:.3f}]"
    return [str(len(found.gaps)), interval, clean, control, found.result.conclusion]
