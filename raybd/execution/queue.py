"""The queue between a proposer and an executor: skips what has finished, runs again what must, collects outcomes."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Proposal, Proposer, Signal
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED


class Finished:
    """What has finished before: nothing, as far as this base class knows."""

    def outcome(self, config: TrialConfig) -> Outcome | None:
        """The outcome of a trial that has finished; None if it has not."""
        return None

    def refresh(self) -> None:
        """Look again: an executor broke down, and its workers may have finished trials that nobody heard of."""


def _ignore(config: TrialConfig, outcome: Outcome) -> None:
    pass


class TrialQueue:
    """Trials to run, and the outcomes of those that have ended; `ended` is called for each of these.

    A trial that ran out of memory beside others waits for all others and then runs alone; only then has it failed.
    """

    def __init__(
        self,
        proposer: Proposer,
        before: Finished | None = None,
        ended: Callable[[TrialConfig, Outcome], None] = _ignore,
    ) -> None:
        self.proposer, self._before, self._ended = proposer, before or Finished(), ended
        self.in_flight: dict[str, TrialConfig] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.skipped = 0  # trials that had finished before
        self._again: deque[TrialConfig] = deque()  # in flight when the executor broke down
        self._alone: deque[TrialConfig] = deque()  # to be run with nothing beside them
        self._exclusive: str | None = None  # key of the one that runs so now
        self._shared: set[str] = set()  # keys of those in flight that had company
        self._earlier: dict[str, str] = {}  # errors of trials that are to run alone

    def next(self) -> Proposal:
        """The next trial; WAIT only while one is in flight, DONE only when none is."""
        if self._exclusive is not None:
            return Signal.WAIT
        proposal = self._put_back_earlier() or self._proposed()
        if isinstance(proposal, TrialConfig):
            return self._start(proposal)
        if self.in_flight:
            return Signal.WAIT
        if not self._alone:
            return proposal
        self._exclusive = self._alone[0].key
        return self._start(self._alone.popleft())

    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of a trial in flight."""
        config = self.in_flight.pop(outcome.key)
        shared = outcome.key in self._shared
        self._shared.discard(outcome.key)
        if self._exclusive == outcome.key:
            self._exclusive = None
        if outcome.out_of_memory and shared:
            self._alone.append(config)
            self._earlier[outcome.key] = outcome.error
        else:
            self._end(config, outcome)

    def interrupted_by_memory(self, keys: Sequence[str]) -> None:
        """The executor broke down because a node's memory ran out while `keys` were running."""
        for key in keys:
            config = self.in_flight[key]
            said = "memory ran out on its node although no other trial ran"
            lost = {"error": said, "out_of_memory": True, "sent": False, "died": True}
            self.tell(Outcome(key, config.label, FAILED, **lost))  # type: ignore[arg-type]

    def put_back(self) -> None:
        """The executor broke down: what is in flight is to be run again."""
        self._before.refresh()
        self._again.extend(self.in_flight.values())
        self.in_flight.clear()
        self._shared.clear()
        self._exclusive = None

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return len(self.in_flight) + len(self._again) + len(self._alone) + self.proposer.remaining

    @property
    def progress(self) -> int:
        """A number that grows whenever an executor gets anywhere, even if only to learn who takes too much memory."""
        return len(self.outcomes) + len(self._alone)

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """The trials to come that are known already."""
        return (*self._again, *self._alone, *self.proposer.listed)

    def _put_back_earlier(self) -> TrialConfig | None:
        while self._again:
            config = self._again.popleft()
            if (outcome := self._before.outcome(config)) is None:
                return config
            self._end(config, outcome)
        return None

    def _proposed(self) -> Proposal:
        while isinstance(proposal := self.proposer.next(), TrialConfig):
            if proposal.key in self.in_flight:  # its outcome will be told once for both
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
