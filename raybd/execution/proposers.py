"""Proposers: sources of trials that see the outcomes of earlier ones. A list is one; searches are others."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from raybd.execution.outcome import Outcome
from raybd.plugins import Table
from raybd.trials.config import TrialConfig


class Signal(Enum):
    """What a proposer returns instead of a trial."""

    WAIT = "wait"  # for an outcome; only while a proposed trial is running
    DONE = "done"


Proposal = TrialConfig | Signal


class Proposer(ABC):
    """A source of trials, which may run in parallel; `tell` reports the outcome of each, finished or failed."""

    needs_metrics: ClassVar[bool] = False  # whether outcomes must contain the trials' metrics

    @abstractmethod
    def next(self) -> Proposal:
        """The next trial, or a Signal; called often, so WAIT must be cheap."""

    @abstractmethod
    def tell(self, outcome: Outcome) -> None:
        """Receive the outcome of the trial or trials with its key."""

    @property
    @abstractmethod
    def remaining(self) -> int:
        """The number of trials still to be proposed, as far as known."""

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """Trials to come that are known already, so that workers get all their configs at once."""
        return ()


class ListProposer(Proposer):
    """The trials of a list, in order."""

    def __init__(self, configs: Sequence[TrialConfig]) -> None:
        self.configs = deque(configs)

    def next(self) -> Proposal:
        """The first trial that has not been proposed."""
        return self.configs.popleft() if self.configs else Signal.DONE

    def tell(self, outcome: Outcome) -> None:
        """Does nothing: the list is fixed."""

    @property
    def remaining(self) -> int:
        """The trials not proposed yet."""
        return len(self.configs)

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """The trials not proposed yet."""
        return tuple(self.configs)


@dataclass(kw_only=True)
class GridProposer(Proposer):
    """A proposer of one's own (`--proposer module:Class`): it chooses among the trials of a sweep, one after another.

    The fields of a subclass are its settings; what it remembers is set in `begin`.
    """

    @abstractmethod
    def begin(self, trials: Sequence[TrialConfig]) -> None:
        """Receive every trial of the sweep, before anything else; those that have finished end at once if proposed."""

    def tell(self, outcome: Outcome) -> None:
        """Receive the outcome of a trial, with its metrics if `needs_metrics`; nothing by default."""

    @property
    def remaining(self) -> int:
        """0: it is not known how many trials are to be proposed."""
        return 0


@dataclass(kw_only=True)
class InOrder(GridProposer):
    """Every trial, in the order of the sweep."""

    def begin(self, trials: Sequence[TrialConfig]) -> None:
        """Keep the trials."""
        self._all = ListProposer(trials)

    def next(self) -> Proposal:
        """The first trial that has not been proposed."""
        return self._all.next()

    @property
    def remaining(self) -> int:
        """The trials not proposed yet."""
        return self._all.remaining


PROPOSERS = Table("proposer", GridProposer, {"list": InOrder})  # type: ignore[type-abstract]
