"""What a person sees while a sweep runs, and at its end."""

import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from raybd.command_line.estimate import clock
from raybd.execution.attempt import Outcome
from raybd.trials.records import FINISHED

SHOWN = 10  # failures listed at the end
EVERY = 5.0  # seconds between lines where the terminal cannot rewrite one


@dataclass
class Progress:
    """Counts of a running sweep, printed as one line that a terminal rewrites."""

    total: int
    stream: TextIO | None = None  # None: standard output as it is then; Tune pickles this object, and no stream can be
    finished: int = 0
    failed: int = 0
    running: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _printed: float = 0.0

    def started(self) -> None:
        """A trial has begun."""
        self.running += 1
        self._show()

    def ended(self, ok: bool) -> None:
        """A trial has ended."""
        self.running = max(0, self.running - 1)
        self.finished, self.failed = self.finished + ok, self.failed + (not ok)
        self._show(self.finished + self.failed >= self.total)

    @property
    def line(self) -> str:
        """The counts, the time gone, and about how much is left."""
        gone, done = time.monotonic() - self._begun, self.finished + self.failed
        left = self.total - done
        rest = f", about {clock(gone / done * left)} left" if done and left else ""
        return (
            f"done {self.finished}  running {self.running}  failed {self.failed}  "
            f"left {left - self.running}  {clock(gone)}{rest}"
        )

    def _show(self, last: bool = False) -> None:
        stream = self.stream or sys.stdout
        terminal = stream.isatty()
        if not last and time.monotonic() - self._printed < (0.2 if terminal else EVERY):
            return
        self._printed = time.monotonic()
        end = "\n" if last or not terminal else ""
        print(("\r\x1b[K" if terminal else "") + self.line, end=end, file=stream, flush=True)


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    name: str
    known: int  # trials that were finished before it began
    outcomes: list[Outcome]  # the last attempt at every other trial that was started
    left: int  # trials that were never ended: interrupted, or Ray gave up
    seconds: float
    cores: int
    trouble: list[str]  # what went wrong besides trials
    interrupted: bool = False
    cpus: float = 1.0  # that a trial held

    @property
    def failures(self) -> list[Outcome]:
        """The trials that failed at their last attempt."""
        return [outcome for outcome in self.outcomes if outcome.status != FINISHED]

    @property
    def mended(self) -> list[Outcome]:
        """The trials that finished after a failure."""
        return [outcome for outcome in self.outcomes if outcome.status == FINISHED and outcome.earlier]

    @property
    def exit_status(self) -> int:
        """0 if every trial has finished and is in the tracking store, 130 after Ctrl-C, else 1."""
        return 130 if self.interrupted else int(bool(self.failures or self.left or self.pending_uploads))

    @property
    def pending_uploads(self) -> int:
        """How many trials wait on disk for the tracking store."""
        return sum(not outcome.sent for outcome in self.outcomes)

    @property
    def busy(self) -> float:
        """Share of the core seconds of the sweep that were spent inside trials; nan where none ran."""
        return self.inside / (self.cores * self.seconds) if self.outcomes else float("nan")

    @property
    def inside(self) -> float:
        """Core seconds that trials held."""
        return self.cpus * sum(outcome.seconds for outcome in self.outcomes)

    @property
    def text(self) -> str:
        """The end of the sweep in a few lines."""
        lines = [f"{len(self.outcomes) - len(self.failures)} trials finished, {self.known} were finished before"]
        if self.outcomes:
            lines.append(
                f"{clock(self.seconds)} on {self.cores} core(s), {self.busy:.0%} of their seconds inside trials "
                f"({self.inside:.1f} s / ({self.cores} x {self.seconds:.1f} s))"
            )
        if peaks := [outcome.memory for outcome in self.outcomes if outcome.memory]:
            lines.append(
                f"peak memory of a trial: {statistics.median(peaks):,.0f} MiB, at most {max(peaks):,.0f} MiB, "
                "data that trials share counted in each"
            )
        lines += [f"FAILED {o.label} [{o.key}]: {o.error}" for o in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"FAILED {len(self.failures) - SHOWN} more: all are in the tracking store")
        lines += [f"tried twice: {o.label} [{o.key}], first: {o.earlier}" for o in self.mended[:SHOWN]]
        if len(self.mended) > SHOWN:
            lines.append(f"tried twice: {len(self.mended) - SHOWN} more")
        lines += [f"note: {o.label} [{o.key}]: {o.note}" for o in self.outcomes if o.note][:SHOWN]
        if self.pending_uploads:
            lines.append(f"{self.pending_uploads} trials wait on disk for the tracking store: raybd send {self.name!r}")
        lines += self.trouble
        if self.left:
            lines.append(f"{self.left} trials are left: the same command goes on with them")
        return "\n".join(lines)
