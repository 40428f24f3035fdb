"""Trials at one setting, seed by seed, and the verdict on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.statistics import TAIL, chance_defended, estimate, jeffreys, least_seeds
from analysis.values import MISSING, Value
from analysis.verdict import Status, Verdict
from raybd.errors import InputError

SLACK = 1e-9  # a rate on the threshold is within it, whatever its last bits
NO_TWIN = "no clean twin was measured (poison rate 0 or attack none, no defence): there is no reference accuracy"
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a seed counts as defended; both in [0, 1]."""

    max_accuracy_loss: float = 0.02  # below the best clean twins
    max_attack_success: float = 0.1

    def __post_init__(self) -> None:
        if bad := [f"{name} must be in [0, 1], not {v}" for name, v in vars(self).items() if not 0 <= v <= 1]:
            raise InputError(bad)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting."""

    setting: Mapping[str, Value]  # every parameter by its full name
    clean_accuracy: tuple[float, ...]  # of each finished seed, in order of the seeds
    attack_success: tuple[float, ...]
    defended: int  # how many of these seeds
    failures: int
    verdict: Verdict


def reference_accuracy(trials: Trials) -> dict[Value, float]:
    """For each data set the best clean twins: max over settings of the mean over seeds of clean accuracy.

    A clean twin is a trial without poison and without defence; those of several attacks at one seed are one.
    """
    twin = trials.rows["done"] & (_is(trials, "poison_rate", 0) | _is(trials, "attack.name", "none"))
    if "defence.name" in trials.codes:
        twin &= _is(trials, "defence.name", "none") | (trials.codes["defence.name"] == MISSING)
    settings = [n for n in trials.values if n != "poison_rate" and not n.startswith("attack.")]
    data = [name for name in settings if name == "data"]
    table = trials.codes[settings].assign(seed=trials.rows["seed"], accuracy=trials.rows["clean_accuracy"])
    table = table[twin].assign(all="")
    seeds = table.groupby(["all", *settings, "seed"])["accuracy"].mean()
    best = seeds.groupby(["all", *settings]).mean().groupby(["all", *data]).max()
    names = [trials.values["data"][at[1]] if data else None for at in best.index.to_frame().to_numpy()]
    return dict(zip(names, best.tolist(), strict=True))


def build(trials: Trials, shown: Mapping[str, str], reference: Mapping[Value, float], rule: Rule) -> list[Cell]:
    """Every cell that has a trial, sorted by its setting.

    Args:
        trials: all of them.
        shown: the parameters that a verdict repeats, and what they go by.
        reference: accuracy by data set.
        rule: the thresholds.
    """
    cells = []
    codes = trials.codes.to_numpy()
    for where in trials.codes.groupby(list(trials.values)).indices.values():
        at = dict(zip(trials.values, codes[where[0]].tolist(), strict=True))
        setting = {n: None if i == MISSING else trials.values[n][i] for n, i in at.items()}
        floor = reference.get(setting.get("data"), np.nan) - rule.max_accuracy_loss
        named = {short: setting[name] for name, short in shown.items()}
        cells.append(_cell(trials.rows.iloc[where], setting, named, floor, rule))
    return cells


def _is(trials: Trials, name: str, value: Value) -> "pd.Series[bool]":
    values = trials.values[name]
    return trials.codes[name] == (values.index(value) if value in values else len(values))


def _cell(
    rows: pd.DataFrame, setting: Mapping[str, Value], named: Mapping[str, Value], floor: float, rule: Rule
) -> Cell:
    done, failed = rows[rows["done"]], rows[rows["status"].isin(["FAILED", "KILLED"])]
    accuracy, success = (done[name].to_numpy(float) for name in ("clean_accuracy", "attack_success"))
    accurate: Flags = accuracy >= floor - SLACK
    resisted: Flags = ~(success > rule.max_attack_success + SLACK)
    defended = int((accurate & resisted).sum())
    if done.empty:
        verdict = Verdict(setting=named, status="unmeasured", reason=_no_evidence(rows, failed))
    else:
        status, reason = _judged(accurate, resisted, float(np.max(success)), floor, rule)
        verdict = Verdict(
            setting=named,
            status=status,
            reason=reason,
            probability=np.nan if np.isnan(floor) else chance_defended(defended, len(done)),
            clean_accuracy=estimate(accuracy, done["clean_count"].to_numpy(float)),
            attack_success=estimate(success, done["triggered_count"].to_numpy(float)),
            seeds=len(done),
            evidence=tuple(done["run_id"]),
        )
    return Cell(
        setting=setting,
        clean_accuracy=tuple(accuracy.tolist()),
        attack_success=tuple(success.tolist()),
        defended=defended,
        failures=len(failed),
        verdict=verdict,
    )


def _judged(accurate: Flags, resisted: Flags, highest: float, floor: float, rule: Rule) -> tuple[Status, str]:
    """Jeffreys' 90 % interval of the chance that a seed is defended must lie on one side of a half."""
    if np.isnan(floor):
        return "uncertain", NO_TWIN
    seeds, defended = len(accurate), int((accurate & resisted).sum())
    tally = f"{defended} of {seeds} seeds defended"
    if jeffreys(defended, seeds, 1 - TAIL) < 0.5:
        return "undefended", f"{tally}: {_faults(accurate, resisted, floor, rule)}"
    if jeffreys(defended, seeds, TAIL) <= 0.5:
        few = defended in (0, seeds)
        return "uncertain", _too_few(seeds) if few else f"{tally}: {_faults(accurate, resisted, floor, rule)}"
    if highest > 2 * rule.max_attack_success + SLACK:
        return (
            "uncertain",
            f"{tally}, but one has an attack success of {highest:.1%}, over twice what is allowed",
        )
    return "defended", tally


def _too_few(seeds: int) -> str:
    number = "1 seed is" if seeds == 1 else f"{seeds} seeds are"
    return f"{number} too few: at least {least_seeds()} that agree are needed"


def _faults(accurate: Flags, resisted: Flags, floor: float, rule: Rule) -> str:
    faults = {
        f"an attack success over {rule.max_attack_success:.1%}": int((~resisted).sum()),
        f"a clean accuracy under {floor:.1%}": int((~accurate).sum()),
    }
    return ", ".join(f"{number} with {fault}" for fault, number in faults.items() if number)


def _no_evidence(rows: pd.DataFrame, failed: pd.DataFrame) -> str:
    running = len(rows) - len(failed)
    errors: Sequence[str] = failed["error"].dropna().tolist()
    parts = [f"{len(failed)} failed (first error: {errors[0] if errors else 'none recorded'})"] * bool(len(failed))
    parts += [f"{running} not finished yet"] * bool(running)
    return f"no finished trial: {', '.join(parts)}"
