"""StopFile: by which a driver asks the trials that it started to end, on every node."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybd.execution.private_signals import blocked_signal_came
from raybd.execution.setup import TrialSetup
from raybd.execution.watchdog import watchdog
from raybd.utils.ending import ending_when
from raybd.utils.files import write_text

POLL_SECONDS = 0.25  # between two looks, which may go to a file system in the network


@dataclass(frozen=True)
class StopFile:
    """A file in a sweep's folder that holds the name of the driver's start whose trials are to end."""

    path: Path
    start: str

    @classmethod
    def of(cls, setup: TrialSetup) -> "StopFile":
        """The file of the start that `setup` belongs to."""
        return cls(setup.folder.path / ".stop", setup.start)

    def write(self) -> None:
        """Ask the trials on this node, or on all nodes that share the folder."""
        with contextlib.suppress(OSError):  # a full disk: they are ended without a checkpoint
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, self.start)

    def asked(self) -> bool:
        """Whether the trials are to end."""
        try:
            return self.path.read_text() == self.start
        except OSError:
            return False


class StopPoll:
    """Whether a StopFile asks, or a signal to this very process, looked at every POLL_SECONDS: it is asked in every
    step of a trial."""

    def __init__(self, file: StopFile) -> None:
        self._file, self._looked, self._asked = file, -POLL_SECONDS, False

    def __call__(self) -> bool:
        """Whether the trials are to end."""
        now = time.monotonic()
        if not self._asked and now - self._looked >= POLL_SECONDS:
            self._looked, self._asked = now, self._file.asked() or blocked_signal_came()
        return self._asked


@contextlib.contextmanager
def supervised(setup: TrialSetup, key: str) -> Iterator[Callable[[], None]]:
    """Inside, the trial `key` ends early where its driver asks, and its worker is killed where it hangs; yields the
    heartbeat."""
    asked, report = StopPoll(StopFile.of(setup)), setup.folder.trial(key).crash_report
    with ending_when(asked), watchdog(setup.stall_seconds, report) as heartbeat:
        yield heartbeat


def stop_trials(file: StopFile) -> None:
    """Write `file` on every node of the connected Ray; on others by a task that needs no CPU of its own."""
    file.write()
    if not ray.is_initialized():
        return
    with contextlib.suppress(Exception):  # a Ray that is going away: its trials go with it
        here = ray.get_runtime_context().get_node_id()
        for node in (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here):
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            ray.remote(num_cpus=0, max_retries=0)(StopFile.write).options(scheduling_strategy=there).remote(file)
