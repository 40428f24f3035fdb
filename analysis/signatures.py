"""Tables of information, stealthiness and smoothing over the runs of a sweep: means over seeds, with their nulls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.attacks import setting_names
from analysis.text_table import align_columns, format_mean_std

SEED = "params.seed"
GAP = "metrics.smoothness/gap"
CONTROLS = ("random_patch", "moved_patch", "random_direction")
COLUMNS = {  # heading: metric, and its null on the clean twin
    "S1": ("stealth/s1", "stealth/s1/null"),
    "S_dev": ("stealth/s_dev", "stealth/s_dev/null"),
    "S2 (nats)": ("stealth/decodability", "stealth/decodability/null"),
    "I(S;T|B=1)": ("stealth/semantics", "stealth/semantics/null"),
}
Judge = Callable[[Sequence[float], Sequence[float], Mapping[str, Sequence[float]]], Any]


def signature_table(runs: pd.DataFrame) -> str:
    """One line an attack and poison rate: the backdoor's information less that of the clean classes, and stealthiness.

    `runs` as `raybd.tracking.load_runs` gives them. Mean ± deviation over seeds, each the mean over its complexities,
    at the last epoch; in brackets the same of the null. "" where the runs hold no such numbers.
    """
    done = runs[(runs["status"] == "FINISHED") & (runs["params.poison_rate"].astype(float) > 0)]
    if "metrics.mi/xt/backdoor" not in done:
        return ""
    table = pd.DataFrame({"attack": setting_names(done), "rate": done["params.poison_rate"].astype(float)})
    for kind in ("xt", "ty"):
        table[kind], table[f"{kind} null"] = excess(done, f"mi/{kind}"), excess(done, f"mi/control/{kind}")
    table["st"] = done["metrics.mi/st/backdoor"]
    pairs = {"I(X;T) excess": ("xt", "xt null"), "I(T;Y) excess": ("ty", "ty null"), "I(S;T)": ("st", None)}
    for heading, (name, null) in COLUMNS.items():
        if f"metrics.{name}" in done:
            table[name], table[null] = done[f"metrics.{name}"], done[f"metrics.{null}"]
            pairs[heading] = (name, null)
    means = table.groupby(["attack", "rate", done[SEED]]).mean().dropna(subset=["xt"])
    lines = [["attack", "rate", "seeds", *pairs]]
    for attack, rate in means.reset_index(SEED, drop=True).index.unique():
        cell = means.loc[(attack, rate)]
        lines.append([str(attack), f"{rate:g}", str(len(cell)), *(_number(cell, *pair) for pair in pairs.values())])
    return align_columns(lines)


def smoothing_table(runs: pd.DataFrame, judge: Judge) -> str:
    """One line an attack, poison rate and sigma: the gap W(clean) - W(triggered) in nats, and `judge`'s conclusion.

    The gap on clean twins is that of the twin of each trial where it was measured, else that of the runs at rate 0.
    "" where the runs hold no such numbers.
    """
    done = runs[runs["status"] == "FINISHED"]
    lines = [["attack", "rate", "sigma", "seeds", "gap (nats), 95 %", "on clean twins", "largest control", "verdict"]]
    for sigma in smoothing_sigmas(done):
        gaps = _by_seed(done, "triggered", sigma)
        twins = _by_seed(done, "twin_triggered", sigma)
        controls = {name: gap for name in CONTROLS if not (gap := _by_seed(done, name, sigma)).empty}
        for key in gaps.index[gaps.index.get_level_values("rate") > 0]:
            gap = gaps.loc[key].dropna()
            same_seeds = {n: other.loc[key].reindex(gap.index) for n, other in controls.items() if key in other.index}
            known = {name: values.tolist() for name, values in same_seeds.items() if values.notna().all()}
            clean = twins.loc[key] if key in twins.index else _at_rate_zero(gaps, key)
            columns = _conclusion_columns(gap, clean.reindex(gap.index), known, judge)
            lines.append([str(key[0]), f"{key[1]:g}", sigma, *columns])
    return align_columns(lines) if len(lines) > 1 else ""


def smoothing_sigmas(runs: pd.DataFrame) -> list[str]:
    """The sigmas at which the gap of the trigger was measured, smallest first."""
    return sorted((name.removeprefix(f"{GAP}/triggered/sigma_") for name in _gap_columns(runs, "triggered")), key=float)


def smoothing_gaps(runs: pd.DataFrame, sigma: str) -> pd.DataFrame:
    """The poisoned trials as `raybd.metrics.smoothing.figures.draw_gaps` takes them."""
    done = runs[(runs["status"] == "FINISHED") & (runs["params.poison_rate"].astype(float) > 0)]
    return pd.DataFrame(
        {
            "attack": setting_names(done),
            "poison_rate": done["params.poison_rate"].astype(float),
            "attack_success": done["metrics.attack_success"],
            "gap": done[f"{GAP}/triggered/sigma_{sigma}"],
        }
    ).dropna()


def excess(runs: pd.DataFrame, prefix: str) -> "pd.Series[float]":
    """The backdoor's value less the mean of the clean classes', of each run."""
    start = f"metrics.{prefix}/clean_"
    classes = [name for name in runs if str(name).startswith(start) and "/" not in str(name)[len(start) :]]
    if f"metrics.{prefix}/backdoor" not in runs:
        return pd.Series(np.nan, index=runs.index)
    return runs[f"metrics.{prefix}/backdoor"] - runs[classes].mean(axis=1)


def _number(cell: pd.DataFrame, name: str, null: str | None) -> str:
    own = format_mean_std(cell[name].tolist(), 1, 2)
    return own if null is None else f"{own} ({cell[null].mean():.2f})"


def _gap_columns(runs: pd.DataFrame, variant: str) -> list[str]:
    return [str(name) for name in runs if str(name).startswith(f"{GAP}/{variant}/sigma_")]


def _by_seed(runs: pd.DataFrame, variant: str, sigma: str) -> pd.DataFrame:
    """The gap of a variant: a line an attack and rate, a column a seed, each the mean over complexities."""
    name = f"{GAP}/{variant}/sigma_{sigma}"
    if name not in runs:
        return pd.DataFrame()
    attack = setting_names(runs).rename("attack")
    rate = runs["params.poison_rate"].astype(float).rename("rate")
    return runs[name].groupby([attack, rate, runs[SEED]]).mean().dropna().unstack(SEED)


def _at_rate_zero(gaps: pd.DataFrame, key: Any) -> "pd.Series[float]":
    return gaps.loc[(key[0], 0.0)] if (key[0], 0.0) in gaps.index else pd.Series(dtype=float)


def _conclusion_columns(
    gaps: "pd.Series[float]", twins: "pd.Series[float]", controls: dict[str, list[float]], judge: Judge
) -> list[str]:
    clean = twins.tolist() if twins.notna().all() else []
    result = judge(gaps.tolist(), clean, controls)
    interval = f"{result.gap.mean:.3f} [{result.gap.low:.3f}, {result.gap.high:.3f}]"
    largest = max(controls, key=lambda name: float(np.mean(controls[name])), default="")
    control = f"{largest} {np.mean(controls[largest]):.3f}" if largest else "-"
    return [str(len(gaps)), interval, f"{np.mean(clean):.3f}" if clean else "-", control, result.conclusion]
