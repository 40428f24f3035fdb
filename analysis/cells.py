"""Trials at one setting, seed by seed, and the verdict on them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.reference import POLICIES, Policy, accuracies
from analysis.statistics import TAIL, Z, chance_defended, estimate, jeffreys, least_seeds
from analysis.values import MISSING, Value
from analysis.verdict import Status, Verdict
from raybd.errors import InputError
from raybd.plugins import unknown

SLACK = 1e-9  # a rate on the threshold is within it, whatever its last bits
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a seed counts as defended; rates in [0, 1]."""

    max_accuracy_loss: float = 0.02  # below the reference
    max_attack_success: float = 0.1
    reference: Policy = "best"
    seed_spread: float | None = None  # deviation between seeds by which a cell of one seed is judged; None: it is not

    def __post_init__(self) -> None:
        rates = {name: value for name, value in vars(self).items() if name != "reference" and value is not None}
        bad = [f"{name} must be in [0, 1], not {value}" for name, value in rates.items() if not 0 <= value <= 1]
        if bad := bad + unknown("reference", [self.reference], POLICIES):
            raise InputError(bad)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting."""

    setting: Mapping[str, Value]  # every parameter by its full name
    seeds: tuple[int, ...]  # that finished, in order
    clean_accuracy: tuple[float, ...]  # of each of them
    attack_success: tuple[float, ...]
    clean_count: tuple[float, ...]  # test images behind each rate; NaN where not known
    triggered_count: tuple[float, ...]
    floor: float  # the least clean accuracy allowed, mean over seeds; NaN without a reference
    held: tuple[bool, ...]  # whether each of these seeds is defended
    failures: int
    verdict: Verdict

    @property
    def defended(self) -> int:
        """How many seeds are."""
        return sum(self.held)

    @property
    def poisoned(self) -> bool:
        """Whether an attack was made."""
        return self.setting["poison_rate"] != 0 and self.setting["attack.name"] != "none"


def build(trials: Trials, shown: Mapping[str, str], rule: Rule) -> list[Cell]:
    """Every cell that has a trial, sorted by its setting.

    Args:
        trials: all of them.
        shown: the parameters that a verdict repeats, and what they go by.
        rule: the thresholds and the reference.
    """
    cells = []
    codes = trials.codes.to_numpy()
    reference, missing = accuracies(trials, rule.reference)
    for where in trials.codes.groupby(list(trials.values)).indices.values():
        at = dict(zip(trials.values, codes[where[0]].tolist(), strict=True))
        setting = {n: None if i == MISSING else trials.values[n][i] for n, i in at.items()}
        named = {short: setting[name] for name, short in shown.items()}
        floors = reference[where] - rule.max_accuracy_loss
        cells.append(_cell(trials.rows.iloc[where], setting, named, _Bar(rule, floors, missing)))
    return cells


@dataclass(frozen=True)
class _Bar:
    """What the seeds of a cell are measured by."""

    rule: Rule
    floors: Floats  # one a trial, NaN where there is no reference
    missing: str  # why there would be none

    def at(self, chosen: Flags) -> "_Bar":
        return _Bar(self.rule, self.floors[chosen], self.missing)

    @property
    def low_accuracy(self) -> str:
        if self.rule.reference == "twin":
            return f"a clean accuracy over {100 * self.rule.max_accuracy_loss:g} points under that of its clean twin"
        return f"a clean accuracy under {self.floors[0]:.1%}"


def _cell(rows: pd.DataFrame, setting: Mapping[str, Value], named: Mapping[str, Value], bar: _Bar) -> Cell:
    done, bar = rows[rows["done"]], bar.at(rows["done"].to_numpy(bool))
    failed = rows[rows["status"].isin(["FAILED", "KILLED"])]
    accuracy, success = (done[name].to_numpy(float) for name in ("clean_accuracy", "attack_success"))
    accurate: Flags = accuracy >= bar.floors - SLACK
    resisted: Flags = ~(success > bar.rule.max_attack_success + SLACK)
    counts = [done[name].to_numpy(float) for name in ("clean_count", "triggered_count")]
    defended = int((accurate & resisted).sum())
    failures = tuple(f"{run}: {_said(error)}" for run, error in zip(failed["run_id"], failed["error"], strict=True))
    if done.empty:
        reason = _no_evidence(rows, failed)
        verdict = Verdict(setting=named, status="unmeasured", reason=reason, failures=failures)
    else:
        status, reason = _judged(accuracy, success, accurate & resisted, bar)
        verdict = Verdict(
            setting=named,
            status=status,
            reason=reason,
            probability=np.nan if np.isnan(bar.floors).any() else chance_defended(defended, len(done)),
            clean_accuracy=estimate(accuracy, counts[0]),
            attack_success=estimate(success, counts[1]),
            seeds=len(done),
            evidence=tuple(done["run_id"]),
            failures=failures,
        )
    return Cell(
        setting=setting,
        seeds=tuple(done["seed"].tolist()),
        clean_accuracy=tuple(accuracy.tolist()),
        attack_success=tuple(success.tolist()),
        clean_count=tuple(counts[0].tolist()),
        triggered_count=tuple(counts[1].tolist()),
        floor=float(bar.floors.mean()) if len(done) else np.nan,
        held=tuple((accurate & resisted).tolist()),
        failures=len(failed),
        verdict=verdict,
    )


def _judged(accuracy: Floats, success: Floats, defended: Flags, bar: _Bar) -> tuple[Status, str]:
    """Jeffreys' 90 % interval of the chance that a seed is defended must lie on one side of a half."""
    if np.isnan(bar.floors).any():
        return "uncertain", bar.missing
    seeds, number, limit = len(defended), int(defended.sum()), bar.rule.max_attack_success
    if seeds == 1 and bar.rule.seed_spread is not None:
        return _judged_alone(float(accuracy[0]), float(success[0]), bar, bar.rule.seed_spread)
    tally = f"{number} of {seeds} seeds defended"
    if jeffreys(number, seeds, 1 - TAIL) < 0.5:
        return "undefended", f"{tally}: {_faults(accuracy, success, bar)}"
    if jeffreys(number, seeds, TAIL) <= 0.5:
        few = number in (0, seeds)
        return "uncertain", _too_few(seeds) if few else f"{tally}: {_faults(accuracy, success, bar)}"
    highest = float(np.max(success))
    if highest > 2 * limit + SLACK:
        return "uncertain", f"{tally}, but one has an attack success of {highest:.1%}, over twice what is allowed"
    return "defended", tally


def _judged_alone(accuracy: float, success: float, bar: _Bar, spread: float) -> tuple[Status, str]:
    """One seed decides only where it is farther from the thresholds than 95 % of seeds would stray."""
    far = Z * spread
    room = {  # how far inside the threshold
        "attack success": bar.rule.max_attack_success - (0.0 if np.isnan(success) else success),
        "clean accuracy": accuracy - float(bar.floors[0]),
    }
    seeds = f"the {100 * far:.0f} points that seeds may stray (deviation {100 * spread:g})"
    if beyond := [name for name, inside in room.items() if inside < -far]:
        return "undefended", f"1 seed, but its {' and '.join(beyond)} misses the threshold by over {seeds}"
    if min(room.values()) > far:
        return "defended", f"1 seed, but within both thresholds by over {seeds}"
    return "uncertain", f"{_too_few(1)}, and its rates are within {seeds} of a threshold"


def _too_few(seeds: int) -> str:
    number = "1 seed is" if seeds == 1 else f"{seeds} seeds are"
    return f"{number} too few: at least {least_seeds()} that agree are needed"


def _faults(accuracy: Floats, success: Floats, bar: _Bar) -> str:
    limit = bar.rule.max_attack_success
    faults = {
        f"an attack success over {limit:.1%}": int((success > limit + SLACK).sum()),
        bar.low_accuracy: int((accuracy < bar.floors - SLACK).sum()),
    }
    return ", ".join(f"{number} with {fault}" for fault, number in faults.items() if number)


def _no_evidence(rows: pd.DataFrame, failed: pd.DataFrame) -> str:
    running = len(rows) - len(failed)
    errors = failed["error"].dropna().tolist()
    parts = [f"{len(failed)} failed (first error: {_said(errors[0] if errors else None)})"] * bool(len(failed))
    parts += [f"{running} not finished yet"] * bool(running)
    return f"no finished trial: {', '.join(parts)}"


def _said(error: object) -> str:
    return error if isinstance(error, str) else "none recorded"
