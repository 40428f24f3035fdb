"""Reasons of verdicts: the numbers that decide a cell, in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.decision import DecisionRule, Decisions
from analysis.reference import why_missing
from analysis.samples import Sample


@dataclass(frozen=True)
class Reasons:
    """What the reasons of all cells of a map are made of."""

    decisions: Decisions
    rule: DecisionRule
    missing_reference: str

    @classmethod
    def of(cls, sample: Sample, decisions: Decisions, rule: DecisionRule) -> "Reasons":
        """The reasons of the cells of a sample."""
        return cls(decisions, rule, why_missing(sample.trials, rule.reference))

    def __call__(self, cell: int) -> str:
        """Why cell number `cell`, which has finished trials, has its status: what decides it first."""
        status, poisoned = self.decisions.status[cell], self.decisions.poisoned[cell]
        accuracy, success = self._accuracy(cell), [self._success(cell)] * bool(poisoned)
        parts = [accuracy, *success] if status == "kept_out" else [*success, accuracy]
        if status == "uncertain":
            parts = [self._undecided(cell), *parts]
        if status == "backdoored":
            parts = success
        lent = ["the spread of seeds is lent by other cells"] * bool(self.decisions.accuracy.lent[cell])
        stated = ["how far seeds stray is stated, not measured"] * bool(self.decisions.accuracy.stated[cell])
        return "; ".join([*parts, *lent, *stated])

    def _success(self, cell: int) -> str:
        found, most = self.decisions.success, f"(at most {100 * self.rule.max_attack_success:g} allowed)"
        if not found.twins.any[cell]:
            return f"attack success is {found.rate[cell]} {most}: no clean twin, so nothing is taken off"
        return f"attack success is {found.excess[cell].points} over that of the clean twins {most}"

    def _accuracy(self, cell: int) -> str:
        found = self.decisions.accuracy
        if np.isnan(found.reference[cell]):
            return self.missing_reference
        most = f"(at most {100 * self.rule.max_accuracy_loss:g} allowed)"
        return f"clean accuracy is {found.loss[cell].points} under the reference {most}"

    def _undecided(self, cell: int) -> str:
        """What keeps a cell from being decided."""
        found = self.decisions
        held, lost = (float(chance[cell]) for chance in (found.success.above, found.accuracy.lost))
        if not found.discovered[cell] and found.probability[cell] >= self.rule.min_probability:
            rate = f"{100 * self.rule.false_discovery_rate:g} %" if self.rule.false_discovery_rate else ""
            return f"not defended at a false discovery rate of {rate} over all cells"
        if np.isnan(held if found.poisoned[cell] else lost) and not np.isnan(found.accuracy.reference[cell]):
            return "one seed is too few: nothing tells how far seeds stray"
        chances = [f"the backdoor takes hold with probability {held:.0%}"] * bool(found.poisoned[cell])
        chances += [f"accuracy is lost with probability {lost:.0%}"] * (not np.isnan(lost))
        return f"not decided: {', '.join(chances)}"


def unmeasured_reason(errors: Sequence[object], running: int, warned: Sequence[float] = ()) -> str:
    """Why there is no finished trial: the errors of those that failed, the number of those that run, and the
    probabilities of those that their early warning stopped."""
    first = next((error for error in errors if isinstance(error, str)), None)
    parts = [f"{len(errors)} failed (first error: {error_text(first)})"] * bool(errors)
    parts += [f"{running} not finished yet"] * bool(running)
    if warned:
        said = f"a backdoor takes hold with probability {min(warned):.2f} to {max(warned):.2f}"
        parts.append(f"{len(warned)} stopped on their early warning ({said})")
    return f"no finished trial: {', '.join(parts)}"


def error_text(error: object) -> str:
    """An error as it was logged."""
    return error if isinstance(error, str) else "none recorded"
