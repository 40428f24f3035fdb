"""SweepResult: how a sweep ended, and the lines that say so."""

import statistics
from dataclasses import dataclass

from raybd.execution.outcome import Outcome
from raybd.execution.progress import clock

SHOWN = 10  # failures listed at the end


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    name: str
    known: int  # trials that were finished before it began
    outcomes: list[Outcome]  # the last attempt at every other trial that was started
    left: int  # trials that were never ended: interrupted, or Ray gave up
    seconds: float
    cores: int
    errors: list[str]  # of the executor or the tracking store, besides trials
    interrupted: bool = False
    cpus: float = 1.0  # that a trial held

    @property
    def failures(self) -> list[Outcome]:
        """The trials that failed at their last attempt."""
        return [outcome for outcome in self.outcomes if not outcome.finished]

    @property
    def recovered(self) -> list[Outcome]:
        """The trials that finished after a failure."""
        return [outcome for outcome in self.outcomes if outcome.finished and outcome.earlier]

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
        lines += [f"tried twice: {o.label} [{o.key}], first: {o.earlier}" for o in self.recovered[:SHOWN]]
        if len(self.recovered) > SHOWN:
            lines.append(f"tried twice: {len(self.recovered) - SHOWN} more")
        lines += [f"note: {o.label} [{o.key}]: {o.note}" for o in self.outcomes if o.note][:SHOWN]
        if self.pending_uploads:
            lines.append(f"{self.pending_uploads} trials wait on disk for the tracking store: raybd send {self.name!r}")
        lines += self.errors
        if self.left:
            lines.append(f"{self.left} trials are left: the same command goes on with them")
        return "\n".join(lines)
