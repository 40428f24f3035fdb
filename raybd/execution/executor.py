"""Executor: the interface that runs a queue's trials somewhere, in this process or on Ray."""

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
MAX_ATTEMPTS = 2  # of a trial, if the first fails


@dataclass(frozen=True)
class ExecutorResult:
    """How an executor's run ended, beside the outcomes of its trials."""

    errors: list[str] = field(default_factory=list)  # of the executor itself
    interrupted: int = 0  # the signal that ended it early, such as SIGINT (Ctrl-C)
    lost: bool = False  # the Ray that it ran on has gone away


class Executor(ABC):
    """A backend that runs trials: this process, or Ray.

    `function` runs one trial in a worker, where it must be importable; a failed trial is its return value, not raised.
    """

    cores: int  # CPU cores available to all trials together
    cpus: float  # CPUs reserved for one trial

    def __init__(self, function: RunTrial, setup: TrialSetup, data: Mapping[str, Data]) -> None:
        self.function, self.setup, self.data = function, setup, data

    @abstractmethod
    def run(self, queue: TrialQueue, progress: Progress) -> ExecutorResult:
        """Run the trials of `queue` until it is done and tell it each outcome; a failed trial gets a second attempt."""
