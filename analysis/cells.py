"""Cells: the trials at one setting, seed by seed, and the verdict on them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.contrast import SLACK
from analysis.decision import DecisionRule, Decisions
from analysis.reasons import Reasons, error_text, unmeasured_reason
from analysis.samples import Flags, Sample
from analysis.values import Value
from analysis.verdict import DECIDED, Verdict

__all__ = ["Cell", "DecisionRule", "build_cells", "group_cells", "mean_seconds"]
NUMBERS = ("clean_accuracy", "attack_success", "clean_count", "triggered_count", "seconds")


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
    seed_defended: tuple[bool, ...]  # whether each of these seeds, taken alone, is within both thresholds
    failures: int
    verdict: Verdict
    seconds: tuple[float, ...] = ()  # that each trial took; NaN where not known
    baseline: float = 0.0  # mean attack success of the clean twins; 0 without one

    @property
    def n_defended(self) -> int:
        """Number of seeds that, taken alone, are within both thresholds."""
        return sum(self.seed_defended)

    @property
    def expected(self) -> str:
        """The status; of a cell that is not decided and has trials that their early warning stopped, what that said.

        `backdoored` where all of them were sure of it, `defended` where all were sure that no backdoor takes hold.
        """
        warned = self.verdict.warned
        if not warned or self.verdict.status in DECIDED:
            return self.verdict.status
        takes_hold = {probability > 0.5 for probability in warned}
        return "uncertain" if len(takes_hold) > 1 else "backdoored" if True in takes_hold else "defended"

    @property
    def poisoned(self) -> bool:
        """Whether an attack was made."""
        return self.setting["poison_rate"] != 0 and self.setting["attack.name"] != "none"


def build_cells(found: Sample, decisions: Decisions, rule: DecisionRule, shown: Mapping[str, str]) -> list[Cell]:
    """Every cell that has a trial, sorted by its setting.

    Args:
        found: all trials.
        decisions: on their cells.
        rule: the thresholds and the reference.
        shown: the parameters that a verdict repeats, by full name, with their short names.
    """
    rows, reasons = found.trials.rows, Reasons.of(found, decisions, rule)
    columns = {name: rows[name].to_numpy() for name in ("run_id", "status", "error", "seed", "warning")}
    rates = {name: found.column(name) for name in NUMBERS} | {"seed_defended": _within(found, decisions, rule)}
    floors, baselines = decisions.accuracy.reference - rule.max_accuracy_loss, decisions.success.twins.mean
    ends, settings = np.cumsum(np.bincount(found.cell))[:-1], found.settings
    cells = []
    for number, where in enumerate(np.split(np.argsort(found.cell, kind="stable"), ends)):
        done, unfinished = where[found.done[where]], where[~found.done[where]]
        named = {short: settings[number][name] for name, short in shown.items()}
        others = {name: column[unfinished] for name, column in columns.items()} if len(unfinished) else {}
        verdict = _verdict(number, named, columns["run_id"][done].tolist(), others, reasons)
        cells.append(
            Cell(
                setting=settings[number],
                seeds=tuple(columns["seed"][done].tolist()),
                **{name: tuple(column[done].tolist()) for name, column in rates.items()},
                min_accuracy=float(floors[number]),
                failures=len(verdict.failures),
                verdict=verdict,
                baseline=float(baselines[number]),
            )
        )
    return cells


def group_cells(cells: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Value, ...], list[Cell]]:
    """Cells by their values of the parameters `names` (full names)."""
    groups: dict[tuple[Value, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell.setting[n] for n in names), []).append(cell)
    return groups


def mean_seconds(cells: Sequence[Cell]) -> float:
    """Mean over the trials of `cells` of the seconds that each took; NaN where none is known."""
    known = [seconds for cell in cells for seconds in cell.seconds if not math.isnan(seconds)]
    return sum(known) / len(known) if known else math.nan


def _within(found: Sample, decisions: Decisions, rule: DecisionRule) -> Flags:
    """(t,) whether each trial, taken alone, is within both thresholds."""
    success, accuracy = found.column("attack_success"), found.column("clean_accuracy")
    least = decisions.accuracy.reference[found.cell] - rule.max_accuracy_loss
    most = decisions.success.twins.mean[found.cell] + rule.max_attack_success
    within: Flags = (accuracy >= least - SLACK) & ~(success > most + SLACK)
    return within


def _verdict(
    cell: int, setting: Mapping[str, Value], runs: Sequence[str], unfinished: Mapping[str, Any], reasons: Reasons
) -> Verdict:
    """The verdict on cell number `cell`, from the runs that finished and the columns of the others."""
    failed = [str(status) in ("FAILED", "KILLED") for status in unfinished.get("status", ())]
    names, errors = (np.asarray(unfinished.get(n, ()), object)[failed].tolist() for n in ("run_id", "error"))
    failures = tuple(f"{run}: {error_text(error)}" for run, error in zip(names, errors, strict=True))
    warned = _warned(unfinished)
    if not runs:
        reason = unmeasured_reason(errors, len(failed) - len(errors) - len(warned), warned)
        return Verdict(setting=setting, status="unmeasured", reason=reason, failures=failures, warned=warned)
    found = reasons.decisions
    return Verdict(
        setting=setting,
        status=found.status[cell],
        reason=reasons(cell),
        probability=float(found.probability[cell]),
        clean_accuracy=found.accuracy.rate[cell],
        attack_success=found.success.rate[cell],
        accuracy_loss=found.accuracy.loss[cell],
        attack_success_excess=found.success.excess[cell],
        seeds=len(runs),
        evidence=tuple(runs),
        failures=failures,
        warned=warned,
        above_twins=bool(found.success.twins.any[cell]),
    )


def _warned(unfinished: Mapping[str, Any]) -> tuple[float, ...]:
    """The probabilities of the trials that their early warning stopped."""
    columns = (unfinished.get(name, ()) for name in ("status", "warning"))
    return tuple(float(warning) for status, warning in zip(*columns, strict=True) if str(status) == "STOPPED")
