"""TrialQueue between a proposer and an executor: skips finished trials, requeues lost ones, collects outcomes."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Proposal, Proposer, Signal
from raybd.execution.twin_line import TwinLine, TwinOf, no_twin
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED


class FinishedTrials:
    """Lookup of trials that finished earlier; this base class has none."""

    def outcome(self, config: TrialConfig) -> Outcome | None:
        """The outcome of a trial that has finished, else None."""
        return None

    def refresh(self) -> None:
        """Update the lookup after an executor failed: its workers may have finished trials without reporting them."""


def _ignore(config: TrialConfig, outcome: Outcome) -> None:
    pass


STOPS = 10  # times that a trial whose process was asked to end goes on; then it has failed


class TrialQueue:
    """Trials to run, and the outcomes of those that have ended; the callback `ended` gets each of these.

    A trial that ran out of memory is run again, alone, after all others; if that fails, it has failed. So has one that
    its node's system ended for its memory although nothing ran beside it.
    """

    def __init__(
        self,
        proposer: Proposer,
        before: FinishedTrials | None = None,
        ended: Callable[[TrialConfig, Outcome], None] = _ignore,
        twin_of: TwinOf = no_twin,
    ) -> None:
        """`twin_of`: the clean twin that a trial waits for while another trains it; see `TwinLine`."""
        self.proposer, self._before, self._ended = proposer, before or FinishedTrials(), ended
        self.in_flight: dict[str, TrialConfig] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.skipped = 0  # proposed trials that had finished before
        self._line = TwinLine(twin_of)
        self._held: set[str] = set()  # keys of those in line
        self._requeued: deque[TrialConfig] = deque()  # were in flight when the executor failed
        self._stops: Counter[str] = Counter()  # key -> how often it was asked to end
        self._alone: deque[TrialConfig] = deque()  # to run while nothing else does
        self._exclusive: str | None = None  # key of the trial that runs alone now
        self._shared: set[str] = set()  # keys of those in flight that ran beside others
        self._earlier: dict[str, str] = {}  # key -> error of the first attempt, of trials that run alone

    def next(self) -> Proposal:
        """The next trial; WAIT only while one is in flight, DONE only when none is."""
        if self._exclusive is not None:
            return Signal.WAIT
        self._line.look()
        while isinstance(proposal := self._next_requeued() or self._next_ready() or self._next_proposed(), TrialConfig):
            if not self._line.holds(proposal):
                return self._start(proposal)
            self._held.add(proposal.key)
        if self.in_flight:
            return Signal.WAIT
        if not self._alone:
            return proposal
        self._exclusive = self._alone[0].key
        return self._start(self._alone.popleft())

    def tell(self, outcome: Outcome) -> None:
        """Receive the outcome of a trial in flight."""
        config = self.in_flight.pop(outcome.key)
        self._line.ended(outcome.key)
        shared = outcome.key in self._shared
        self._shared.discard(outcome.key)
        if self._exclusive == outcome.key:
            self._exclusive = None
        first = outcome.key not in self._earlier
        if outcome.stopped and self._stops[outcome.key] < STOPS:
            self._stops[outcome.key] += 1
            (self._requeued if first else self._alone).append(config)
        elif outcome.out_of_memory and first and (shared or not outcome.died):
            self._alone.append(config)
            self._earlier[outcome.key] = outcome.error
        else:
            self._end(config, outcome)

    def runs_alone(self, key: str) -> bool:
        """Whether the trial in flight is one that ran out of memory, and that nothing runs beside now."""
        return self._exclusive == key

    def tell_out_of_memory(self, keys: Sequence[str]) -> None:
        """Mark the running trials `keys` as out of memory, when a node's memory ran out and the executor failed."""
        for key in keys:
            config = self.in_flight[key]
            error = "its node ran out of memory although no other trial was running"
            lost = {"error": error, "out_of_memory": True, "uploaded": False, "died": True}
            self.tell(Outcome(key, config.label, FAILED, **lost))  # type: ignore[arg-type]

    def requeue(self) -> None:
        """Run the trials in flight again, after the executor failed."""
        self._before.refresh()
        self._requeued.extend(self.in_flight.values())
        self.in_flight.clear()
        self._line.end_all()
        self._shared.clear()
        self._exclusive = None

    @property
    def left(self) -> int:
        """The number of trials that have not ended."""
        waiting = len(self._held) + len(self._requeued) + len(self._alone)
        return len(self.in_flight) + waiting + self.proposer.remaining

    @property
    def progress(self) -> int:
        """Number of trials that have ended or are known to need much memory, to detect an executor that stalls."""
        return len(self.outcomes) + len(self._alone)

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """Trials to come that are known already."""
        return (*self._requeued, *self._line.trials, *self._alone, *self.proposer.listed)

    def _next_requeued(self) -> TrialConfig | None:
        while self._requeued:
            config = self._requeued.popleft()
            if (outcome := self._before.outcome(config)) is None:
                return config
            self._end(config, outcome)
        return None

    def _next_ready(self) -> TrialConfig | None:
        if not self._line.ready:
            return None
        config = self._line.ready.popleft()
        self._held.discard(config.key)
        return config

    def _next_proposed(self) -> Proposal:
        while isinstance(proposal := self.proposer.next(), TrialConfig):
            if proposal.key in self.in_flight or proposal.key in self._held:  # its outcome will count for both
                continue
            outcome = self.outcomes.get(proposal.key) or self._before.outcome(proposal)
            if outcome is None:
                return proposal
            self.skipped += proposal.key not in self.outcomes
            self.proposer.tell(outcome)
        return proposal

    def _start(self, config: TrialConfig) -> TrialConfig:
        self.in_flight[config.key] = config
        if len(self.in_flight) > 1:
            self._shared.update(self.in_flight)
        return config

    def _end(self, config: TrialConfig, outcome: Outcome) -> None:
        earlier = outcome.earlier or self._earlier.pop(outcome.key, "")
        self.outcomes[outcome.key] = replace(outcome, earlier=earlier)
        self._ended(config, outcome)
        self.proposer.tell(outcome)
