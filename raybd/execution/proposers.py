"""Proposers: what to run next, given what has ended. A list of trials is one; searches are others."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from raybd.execution.outcome import Outcome
from raybd.trials.config import TrialConfig


class Signal(Enum):
    """What a proposer answers where it has no trial."""

    WAIT = "wait"  # for an outcome; never where no trial that it proposed is running
    DONE = "done"


Proposal = TrialConfig | Signal


class Proposer(ABC):
    """A source of trials. Several may run at once; `tell` reports each that has ended, whatever became of it."""

    needs_metrics: ClassVar[bool] = False  # whether outcomes must hold the trials' metrics

    @abstractmethod
    def next(self) -> Proposal:
        """The next trial; asked often, so WAIT must cost nothing."""

    @abstractmethod
    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of every trial proposed under its key."""

    @property
    @abstractmethod
    def remaining(self) -> int:
        """How many trials it will still propose, as far as it knows."""

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """The trials to come that are known already; workers get them once for all."""
        return ()


class ListProposer(Proposer):
    """The trials of a list, in order."""

    def __init__(self, configs: Sequence[TrialConfig]) -> None:
        self.configs = deque(configs)

    def next(self) -> Proposal:
        """The first that has not been proposed."""
        return self.configs.popleft() if self.configs else Signal.DONE

    def tell(self, outcome: Outcome) -> None:
        """Nothing to do: the list stands."""

    @property
    def remaining(self) -> int:
        """The trials not proposed yet."""
        return len(self.configs)

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """All that are left."""
        return tuple(self.configs)
