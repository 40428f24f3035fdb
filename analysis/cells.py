"""Cells: the trials at one setting, seed by seed, and the verdict on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.reference import POLICIES, Policy, reference_accuracies
from analysis.statistics import TAIL, Z, chance_defended, estimate, jeffreys, least_seeds
from analysis.values import MISSING, Value
from analysis.verdict import Status, Verdict
from raybd.errors import InputError
from raybd.plugins import unknown
from raybd.utils.constraints import Share, violations

SLACK = 1e-9  # a rate on the threshold is within it, whatever its last bits
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """When a seed counts as defended; rates in [0, 1]."""

    max_accuracy_loss: Share = 0.02  # below the reference
    max_attack_success: Share = 0.1
    reference: Policy = "best"
    seed_spread: Share | None = None  # deviation between seeds by which a cell of one seed is judged; None: it is not

    def __post_init__(self) -> None:
        if bad := violations(self) + unknown("reference", [self.reference], POLICIES):
            raise InputError(bad)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measured setting: the rates of its seeds and the verdict on them."""

    setting: Mapping[str, Value]  # every parameter by its full name
    seeds: tuple[int, ...]  # that finished, in order
    clean_accuracy: tuple[float, ...]  # of each of them
    attack_success: tuple[float, ...]
    clean_count: tuple[float, ...]  # test images behind each rate; NaN where not known
    triggered_count: tuple[float, ...]
    min_accuracy: float  # the least clean accuracy allowed, mean over seeds; NaN without a reference
    seed_defended: tuple[bool, ...]  # whether each of these seeds is defended
    failures: int
    verdict: Verdict

    @property
    def n_defended(self) -> int:
        """Number of seeds that are defended."""
        return sum(self.seed_defended)

    @property
    def poisoned(self) -> bool:
        """Whether an attack was made."""
        return self.setting["poison_rate"] != 0 and self.setting["attack.name"] != "none"


def build_cells(trials: Trials, shown: Mapping[str, str], rule: DecisionRule) -> list[Cell]:
    """Every cell that has a trial, sorted by its setting.

    Args:
        trials: all of them.
        shown: the parameters that a verdict repeats, by full name, with their short names.
        rule: the thresholds and the reference.
    """
    cells = []
    codes = trials.codes.to_numpy()
    reference, missing = reference_accuracies(trials, rule.reference)
    for where in trials.codes.groupby(list(trials.values)).indices.values():
        at = dict(zip(trials.values, codes[where[0]].tolist(), strict=True))
        setting = {n: None if i == MISSING else trials.values[n][i] for n, i in at.items()}
        named = {short: setting[name] for name, short in shown.items()}
        criteria = _CellCriteria(rule, reference[where] - rule.max_accuracy_loss, missing)
        cells.append(_cell(trials.rows.iloc[where], setting, named, criteria))
    return cells


def group_cells(cells: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Value, ...], list[Cell]]:
    """Cells by their values of the parameters `names` (full names)."""
    groups: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.setting[n] for n in names), []).append(cell)
    return groups


@dataclass(frozen=True)
class _CellCriteria:
    """What the trials of a cell are judged by."""

    rule: DecisionRule
    min_accuracy: Floats  # one a trial, NaN where there is no reference
    missing_reference: str  # why there would be none

    def select(self, mask: Flags) -> "_CellCriteria":
        return _CellCriteria(self.rule, self.min_accuracy[mask], self.missing_reference)

    @property
    def low_accuracy(self) -> str:
        if self.rule.reference == "twin":
            return f"a clean accuracy over {100 * self.rule.max_accuracy_loss:g} points under that of its clean twin"
        return f"a clean accuracy under {self.min_accuracy[0]:.1%}"


def _cell(
    rows: pd.DataFrame, setting: Mapping[str, Value], named: Mapping[str, Value], criteria: _CellCriteria
) -> Cell:
    done, criteria = rows[rows["done"]], criteria.select(rows["done"].to_numpy(bool))
    failed = rows[rows["status"].isin(["FAILED", "KILLED"])]
    accuracy, success = (done[name].to_numpy(float) for name in ("clean_accuracy", "attack_success"))
    accurate: Flags = accuracy >= criteria.min_accuracy - SLACK
    resisted: Flags = ~(success > criteria.rule.max_attack_success + SLACK)
    counts = [done[name].to_numpy(float) for name in ("clean_count", "triggered_count")]
    defended = int((accurate & resisted).sum())
    failures = tuple(
        f"{run}: {_error_text(error)}" for run, error in zip(failed["run_id"], failed["error"], strict=True)
    )
    if done.empty:
        reason = _unmeasured_reason(rows, failed)
        verdict = Verdict(setting=named, status="unmeasured", reason=reason, failures=failures)
    else:
        status, reason = _decide(accuracy, success, accurate & resisted, criteria)
        verdict = Verdict(
            setting=named,
            status=status,
            reason=reason,
            probability=np.nan if np.isnan(criteria.min_accuracy).any() else chance_defended(defended, len(done)),
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
        min_accuracy=float(criteria.min_accuracy.mean()) if len(done) else np.nan,
        seed_defended=tuple((accurate & resisted).tolist()),
        failures=len(failed),
        verdict=verdict,
    )


def _decide(accuracy: Floats, success: Floats, defended: Flags, criteria: _CellCriteria) -> tuple[Status, str]:
    """Jeffreys' 90 % interval of the chance that a seed is defended must lie on one side of a half."""
    if np.isnan(criteria.min_accuracy).any():
        return "uncertain", criteria.missing_reference
    seeds, number, limit = len(defended), int(defended.sum()), criteria.rule.max_attack_success
    if seeds == 1 and criteria.rule.seed_spread is not None:
        return _decide_single_seed(float(accuracy[0]), float(success[0]), criteria, criteria.rule.seed_spread)
    tally = f"{number} of {seeds} seeds defended"
    if jeffreys(number, seeds, 1 - TAIL) < 0.5:
        return "undefended", f"{tally}: {_faults(accuracy, success, criteria)}"
    if jeffreys(number, seeds, TAIL) <= 0.5:
        unanimous = number in (0, seeds)
        return "uncertain", _too_few(seeds) if unanimous else f"{tally}: {_faults(accuracy, success, criteria)}"
    highest = float(np.max(success))
    if highest > 2 * limit + SLACK:
        return "uncertain", f"{tally}, but one has an attack success of {highest:.1%}, over twice what is allowed"
    return "defended", tally


def _decide_single_seed(accuracy: float, success: float, criteria: _CellCriteria, spread: float) -> tuple[Status, str]:
    """One seed decides only where it is farther from the thresholds than 95 % of seeds would stray."""
    reach = Z * spread
    margins = {  # how far inside the threshold
        "attack success": criteria.rule.max_attack_success - (0.0 if np.isnan(success) else success),
        "clean accuracy": accuracy - float(criteria.min_accuracy[0]),
    }
    seeds = f"the {100 * reach:.0f} points that seeds may stray (deviation {100 * spread:g})"
    if beyond := [name for name, inside in margins.items() if inside < -reach]:
        return "undefended", f"1 seed, but its {' and '.join(beyond)} misses the threshold by over {seeds}"
    if min(margins.values()) > reach:
        return "defended", f"1 seed, but within both thresholds by over {seeds}"
    return "uncertain", f"{_too_few(1)}, and its rates are within {seeds} of a threshold"


def _too_few(seeds: int) -> str:
    number = "1 seed is" if seeds == 1 else f"{seeds} seeds are"
    return f"{number} too few: at least {least_seeds()} that agree are needed"


def _faults(accuracy: Floats, success: Floats, criteria: _CellCriteria) -> str:
    limit = criteria.rule.max_attack_success
    faults = {
        f"an attack success over {limit:.1%}": int((success > limit + SLACK).sum()),
        criteria.low_accuracy: int((accuracy < criteria.min_accuracy - SLACK).sum()),
    }
    return ", ".join(f"{number} with {fault}" for fault, number in faults.items() if number)


def _unmeasured_reason(rows: pd.DataFrame, failed: pd.DataFrame) -> str:
    running = len(rows) - len(failed)
    errors = failed["error"].dropna().tolist()
    parts = [f"{len(failed)} failed (first error: {_error_text(errors[0] if errors else None)})"] * bool(len(failed))
    parts += [f"{running} not finished yet"] * bool(running)
    return f"no finished trial: {', '.join(parts)}"


def _error_text(error: object) -> str:
    return error if isinstance(error, str) else "none recorded"
