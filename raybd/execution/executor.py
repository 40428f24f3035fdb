"""Executor: the seam between what to run and where."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.queue import TrialQueue
from raybd.execution.setup import TrialSetup
from raybd.trials.config import TrialConfig
from raybd.types import Data

Heartbeat = Callable[[], None]
RunTrial = Callable[[TrialConfig, Data, TrialSetup, Heartbeat], Outcome]
ATTEMPTS = 2  # at a trial that fails


@dataclass(frozen=True)
class Ending:
    """How an executor ended, besides the outcomes of trials."""

    errors: list[str] = field(default_factory=list)  # of the executor itself
    interrupted: bool = False  # by Ctrl-C


class Executor(ABC):
    """A place where trials run: this process, or Ray.

    `function` runs one trial in a worker and never raises for a trial that failed; it can be imported there.
    """

    cores: int  # of the whole place
    cpus: float  # that a trial holds

    def __init__(self, function: RunTrial, setup: TrialSetup, data: Mapping[str, Data]) -> None:
        self.function, self.setup, self.data = function, setup, data

    @abstractmethod
    def run(self, queue: TrialQueue, progress: Progress) -> Ending:
        """Run trials of `queue` until it is done, telling it each outcome; ordinary failures get a second attempt."""
