"""Cells: the trials at one setting, seed by seed, and the verdict on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.records import Trials
from analysis.reference import Policy, reference_accuracies
from analysis.statistics import TAIL, Z, chance_defended, estimate, jeffreys, least_seeds
from analysis.values import MISSING, Value
from analysis.verdict import Status, Verdict
from raybd.errors import InputError
from raybd.utils.constraints import Share, violations

SLACK = 1e-9  # a rate on the threshold is within it, whatever its last bits
NUMBERS = ("clean_accuracy", "attack_success", "clean_count", "triggered_count")
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """When a seed counts as defended; rates in [0, 1]."""

    max_accuracy_loss: Share = 0.02  # below the reference
    max_attack_success: Share = 0.1
    reference: Policy = "best"
    seed_spread: Share | None = None  # deviation between seeds by which a cell of one seed is judged; None: it is not

    def __post_init__(self) -> None:
        if str(self.reference) == "undefended":  # the word of 0.2
            object.__setattr__(self, "reference", "no_defence")
        if bad := violations(self):
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
    codes, done = trials.codes.to_numpy(), trials.rows["done"].to_numpy(bool)
    rows = trials.rows.astype(dict.fromkeys(NUMBERS, float))
    columns = {str(name): column.to_numpy() for name, column in rows.items()}
    reference, missing = reference_accuracies(trials, rule.reference)
    cells = []
    for where in trials.codes.groupby(list(trials.values)).indices.values():
        positions = dict(zip(trials.values, codes[where[0]].tolist(), strict=True))
        setting = {n: None if i == MISSING else trials.values[n][i] for n, i in positions.items()}
        finished, unfinished = where[done[where]], where[~done[where]]
        min_accuracy = reference[finished] - rule.max_accuracy_loss
        seeds = _Seeds(rule, {n: column[finished] for n, column in columns.items()}, min_accuracy, missing)
        others = {name: columns[name][unfinished] for name in ("run_id", "status", "error")}
        cells.append(_cell(setting, {short: setting[name] for name, short in shown.items()}, seeds, others))
    return cells


def group_cells(cells: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Value, ...], list[Cell]]:
    """Cells by their values of the parameters `names` (full names)."""
    groups: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.setting[n] for n in names), []).append(cell)
    return groups


@dataclass(frozen=True)
class _Seeds:
    """The finished trials of a cell, one a seed, and what they are judged by."""

    rule: DecisionRule
    columns: Columns  # of a table of trials
    min_accuracy: Floats  # of each, NaN where there is no reference
    missing_reference: str  # why there would be none

    def __len__(self) -> int:
        return len(self.min_accuracy)

    @cached_property
    def inaccurate(self) -> Flags:
        return ~(self.columns["clean_accuracy"] >= self.min_accuracy - SLACK)

    @cached_property
    def attacked(self) -> Flags:
        return self.columns["attack_success"] > self.rule.max_attack_success + SLACK

    @cached_property
    def defended(self) -> Flags:
        return ~self.inaccurate & ~self.attacked

    @property
    def faults(self) -> str:
        """How many seeds miss each threshold."""
        if self.rule.reference == "twin":
            loss = f"a clean accuracy over {100 * self.rule.max_accuracy_loss:g} points under that of its clean twin"
        else:
            loss = f"a clean accuracy under {self.min_accuracy[0]:.1%}"
        success = f"an attack success over {self.rule.max_attack_success:.1%}"
        faults = {success: self.attacked.sum(), loss: self.inaccurate.sum()}
        return ", ".join(f"{number} with {fault}" for fault, number in faults.items() if number)


def _cell(setting: Mapping[str, Value], named: Mapping[str, Value], seeds: _Seeds, unfinished: Columns) -> Cell:
    return Cell(
        setting=setting,
        seeds=tuple(seeds.columns["seed"].tolist()),
        **{name: tuple(seeds.columns[name].tolist()) for name in NUMBERS},
        min_accuracy=float(seeds.min_accuracy.mean()) if len(seeds) else np.nan,
        seed_defended=tuple(seeds.defended.tolist()),
        failures=int(_failed(unfinished).sum()),
        verdict=_verdict(named, seeds, unfinished),
    )


def _verdict(named: Mapping[str, Value], seeds: _Seeds, unfinished: Columns) -> Verdict:
    runs, errors = (unfinished[name][_failed(unfinished)].tolist() for name in ("run_id", "error"))
    failures = tuple(f"{run}: {_text(error)}" for run, error in zip(runs, errors, strict=True))
    if not len(seeds):
        reason = _unmeasured_reason(errors, len(unfinished["status"]) - len(runs))
        return Verdict(setting=named, status="unmeasured", reason=reason, failures=failures)
    status, reason = _decide(seeds)
    no_reference = np.isnan(seeds.min_accuracy).any()
    return Verdict(
        setting=named,
        status=status,
        reason=reason,
        probability=np.nan if no_reference else chance_defended(int(seeds.defended.sum()), len(seeds)),
        clean_accuracy=estimate(seeds.columns["clean_accuracy"], seeds.columns["clean_count"]),
        attack_success=estimate(seeds.columns["attack_success"], seeds.columns["triggered_count"]),
        seeds=len(seeds),
        evidence=tuple(seeds.columns["run_id"].tolist()),
        failures=failures,
    )


def _decide(seeds: _Seeds) -> tuple[Status, str]:
    """Jeffreys' 90 % interval of the chance that a seed is defended must lie on one side of a half."""
    if np.isnan(seeds.min_accuracy).any():
        return "uncertain", seeds.missing_reference
    total, defended = len(seeds), int(seeds.defended.sum())
    if total == 1 and seeds.rule.seed_spread is not None:
        return _decide_single_seed(seeds, seeds.rule.seed_spread)
    tally = f"{defended} of {total} seeds defended"
    if jeffreys(defended, total, 1 - TAIL) < 0.5:
        return _undefended(seeds), f"{tally}: {seeds.faults}"
    if jeffreys(defended, total, TAIL) <= 0.5:
        unanimous = defended in (0, total)
        return "uncertain", _too_few(total) if unanimous else f"{tally}: {seeds.faults}"
    highest = float(np.max(seeds.columns["attack_success"]))
    if highest > 2 * seeds.rule.max_attack_success + SLACK:
        return "uncertain", f"{tally}, but one has an attack success of {highest:.1%}, over twice what is allowed"
    return "defended", tally


def _undefended(seeds: _Seeds) -> Status:
    """Of a cell that is not defended: whether the backdoor takes hold, by the same interval."""
    total, attacked = len(seeds), int(seeds.attacked.sum())
    if jeffreys(attacked, total, TAIL) > 0.5:
        return "backdoored"
    return "kept_out" if jeffreys(attacked, total, 1 - TAIL) < 0.5 else "uncertain"


def _decide_single_seed(seeds: _Seeds, spread: float) -> tuple[Status, str]:
    """One seed decides only where it is farther from the thresholds than 95 % of seeds would stray."""
    accuracy, success = (float(seeds.columns[name][0]) for name in ("clean_accuracy", "attack_success"))
    reach = Z * spread
    margins = {  # how far inside the threshold
        "attack success": seeds.rule.max_attack_success - (0.0 if np.isnan(success) else success),
        "clean accuracy": accuracy - float(seeds.min_accuracy[0]),
    }
    stray = f"the {100 * reach:.0f} points that seeds may stray (deviation {100 * spread:g})"
    if beyond := [name for name, inside in margins.items() if inside < -reach]:
        status: Status = "backdoored" if "attack success" in beyond else "kept_out"
        return status, f"1 seed, but its {' and '.join(beyond)} misses the threshold by over {stray}"
    if min(margins.values()) > reach:
        return "defended", f"1 seed, but within both thresholds by over {stray}"
    return "uncertain", f"{_too_few(1)}, and its rates are within {stray} of a threshold"


def _too_few(seeds: int) -> str:
    number = "1 seed is" if seeds == 1 else f"{seeds} seeds are"
    return f"{number} too few: at least {least_seeds()} that agree are needed"


def _failed(trials: Columns) -> Flags:
    return np.isin(trials["status"].astype(str), ["FAILED", "KILLED"])


def _unmeasured_reason(errors: Sequence[object], running: int) -> str:
    """Why there is no finished trial, from the errors of those that failed and the number of the others."""
    first = next((error for error in errors if isinstance(error, str)), None)
    parts = [f"{len(errors)} failed (first error: {_text(first)})"] * bool(errors)
    parts += [f"{running} not finished yet"] * bool(running)
    return f"no finished trial: {', '.join(parts)}"


def _text(error: object) -> str:
    return error if isinstance(error, str) else "none recorded"
