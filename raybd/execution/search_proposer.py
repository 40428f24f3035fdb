"""OptunaProposer: the controls of a search and the cases of its candidates, one after another."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Proposal, Proposer, Signal
from raybd.execution.search import CUT_SHORT, PRUNERS, SAMPLERS, Metrics, Search, candidates_left, tell_study
from raybd.trials.config import TrialConfig
from raybd.trials.validate import data_problems, problems
from raybd.utils.constraints import violations


@dataclass
class Candidate:
    """Settings under evaluation: an Optuna trial, its cases, and the metrics of those that have ended."""

    trial: optuna.Trial
    settings: dict[str, Any]
    cases: list[TrialConfig]
    metrics: list[Metrics] = field(default_factory=list)
    seconds: float = 0.0
    running: bool = False  # whether its next case is running

    @property
    def case(self) -> TrialConfig:
        """The case that runs, or the next one."""
        return self.cases[len(self.metrics)]


class OptunaProposer(Proposer):
    """Proposer of the controls, then of Optuna's candidates: their cases run in sequence, candidates in parallel.

    Attributes:
        failed: why the candidates cannot be judged: a control that failed; "" as long as none has.
    """

    needs_metrics = True

    def __init__(self, search: Search, study: optuna.Study) -> None:
        self.search, self.study = search, study
        self.study.sampler = SAMPLERS[search.sampler](
            search.seed + len(study.trials)
        )  # else it would draw the same candidates again
        self.to_start = candidates_left(search, study)  # number of candidates
        self.candidates: list[Candidate] = []  # under evaluation
        self.failed = ""
        self._controls = {control.key: control for control in search.controls}  # that have not ended
        self._to_propose = deque(self._controls.values()) if self.to_start else deque()
        self._compared: dict[str, Metrics] = {}  # key of a control -> its metrics

    def next(self) -> Proposal:
        """A control, the next case of a candidate under evaluation, else the first case of a new one."""
        if self._to_propose:
            return self._to_propose.popleft()
        if self.to_start and self._controls:
            return Signal.WAIT
        waiting = next((c for c in self.candidates if not c.running), None) or self._new()
        if waiting is None:
            return Signal.WAIT if self.candidates else Signal.DONE
        waiting.running = True
        return waiting.case

    def tell(self, outcome: Outcome) -> None:
        """Receive the metrics of a control or a case, for every candidate that has it; end complete or pruned ones."""
        if self._controls.pop(outcome.key, None) is not None:
            self._take_control(outcome)
            return
        for candidate in [c for c in self.candidates if c.running and c.case.key == outcome.key]:
            candidate.running = False
            candidate.seconds += outcome.seconds
            if outcome.finished:
                self._take(candidate, outcome.metrics)
            else:
                self._end(candidate, error=f"{outcome.label}: {outcome.error}")

    @property
    def remaining(self) -> int:
        """The number of cases to come, if no candidate is pruned."""
        started = sum(len(c.cases) - len(c.metrics) - c.running for c in self.candidates)
        return len(self._to_propose) + started + self.to_start * len(self.search.cases)

    def _take_control(self, outcome: Outcome) -> None:
        self._compared[outcome.key] = outcome.metrics
        if not outcome.finished:
            self.failed = f"{outcome.label}: {outcome.error}"
            self.to_start = 0
            self._to_propose.clear()

    def _new(self) -> Candidate | None:
        """A new candidate; candidates with invalid settings are ended as failed."""
        while self.to_start:
            self.to_start -= 1
            trial = self.study.ask()
            candidate = Candidate(trial, self.search.settings(trial), [])
            try:
                defence = self.search.defence(candidate.settings)
                candidate.cases = [replace(case, defence=defence) for case in self.search.cases]
            except InputError as error:
                self._end(candidate, error=f"{type(error).__name__}: {error}")
                continue
            found = [problem for case in candidate.cases for problem in self._problems(case)]
            if found := violations(defence) + found:
                self._end(candidate, error="; ".join(dict.fromkeys(found)))
                continue
            self.candidates.append(candidate)
            return candidate
        return None

    def _problems(self, case: TrialConfig) -> list[str]:
        found, data = problems(case), self.search.data.get(case.image_set)
        return found or ([] if data is None else data_problems(case, data))

    def _take(self, candidate: Candidate, metrics: Metrics) -> None:
        candidate.metrics.append(metrics)
        results = self.search.evaluate(candidate.cases[: len(candidate.metrics)], candidate.metrics, self._compared)
        if len(candidate.metrics) == len(candidate.cases):
            self._end(candidate, **results)
        elif self._is_hopeless(results):
            self._end(candidate, **results, **{CUT_SHORT: len(candidate.metrics)})

    def _is_hopeless(self, results: Metrics) -> bool:
        """Whether what a candidate's first cases gave is far beyond a limit."""
        most = PRUNERS[self.search.pruner]
        return any(results[name] - limit > most for name, limit in self.search.limits.items())

    def _end(self, candidate: Candidate, **results: Any) -> None:
        if candidate in self.candidates:
            self.candidates.remove(candidate)
        results |= {"settings": candidate.settings, "seconds": candidate.seconds}
        tell_study(self.study, candidate.trial, results, self.search.goals, self.search.limits)
