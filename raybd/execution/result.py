"""SweepResult: outcomes of a sweep's trials, their summary and the exit status."""

import statistics
from dataclasses import dataclass
from html import escape

from raybd.execution.outcome import Outcome
from raybd.execution.progress import format_duration
from raybd.utils.html import table

SHOWN = 10  # failures listed at the end


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep."""

    name: str
    finished_before: int  # trials that had finished before this start
    outcomes: list[Outcome]  # the last attempt at every other trial that was started
    left: int  # trials that have not ended: interrupted, or Ray failed too often
    seconds: float
    cores: int
    errors: list[str]  # of the executor or the tracking store, besides trials
    interrupted: int = 0  # the signal that ended it early, such as SIGINT (Ctrl-C)
    cpus: float = 1.0  # CPUs reserved for one trial
    lost: bool = False  # the Ray that it ran on has gone away
    store_lost: bool = False  # the tracking store was deleted or replaced meanwhile

    @property
    def failures(self) -> list[Outcome]:
        """The trials that failed at their last attempt."""
        return [outcome for outcome in self.outcomes if not (outcome.finished or outcome.warned)]

    @property
    def warned(self) -> list[Outcome]:
        """The trials that their early warning stopped."""
        return [outcome for outcome in self.outcomes if outcome.warned]

    @property
    def recovered(self) -> list[Outcome]:
        """The trials that finished at the second attempt."""
        return [outcome for outcome in self.outcomes if outcome.finished and outcome.earlier]

    @property
    def exit_status(self) -> int:
        """0 if every trial has finished and is in the tracking store, 130 after Ctrl-C, 143 after SIGTERM, else 1."""
        return (
            128 + self.interrupted
            if self.interrupted
            else int(bool(self.failures or self.left or self.pending_uploads or self.store_lost))
        )

    @property
    def pending_uploads(self) -> int:
        """The number of trials on disk that the tracking store does not have yet."""
        return sum(not outcome.uploaded for outcome in self.outcomes)

    @property
    def busy(self) -> float:
        """Share of the core seconds of the sweep that were spent inside trials; nan where none ran."""
        return self.core_seconds / (self.cores * self.seconds) if self.outcomes and self.seconds else float("nan")

    @property
    def core_seconds(self) -> float:
        """Core seconds reserved by trials."""
        return self.cpus * sum(outcome.seconds for outcome in self.outcomes)

    def _repr_html_(self) -> str:
        finished = sum(outcome.finished for outcome in self.outcomes)
        counts = f"{finished} finished, {len(self.failures)} failed, {self.finished_before} before, {self.left} left"
        rows = [{"trial": o.label, "key": o.key, "error": o.error} for o in self.failures[:SHOWN]]
        failures = f"<p>Failed, of {len(self.failures)}:</p>{table(rows)}" if rows else ""
        errors = "".join(f"<p>{escape(error)}</p>" for error in self.errors)
        return f"<div><b>{escape(self.name)}</b>: {counts}{failures}{errors}</div>"

    @property
    def text(self) -> str:
        """The summary of the sweep in a few lines."""
        finished = sum(outcome.finished for outcome in self.outcomes)
        lines = [f"{finished} trials finished, {self.finished_before} had finished before"]
        if self.warned:
            lines.append(
                f"{len(self.warned)} stopped on their early warning, which is no measured result: "
                "without --stop-on-warning they run whole"
            )
        if self.outcomes and self.seconds:
            share = f"{self.busy:.0%} of core seconds inside trials"
            ratio = f"{self.core_seconds:.1f} s / ({self.cores} x {self.seconds:.1f} s)"
            lines.append(f"{format_duration(self.seconds)} on {self.cores} core(s), {share} ({ratio})")
        if peaks := [outcome.memory for outcome in self.outcomes if outcome.memory]:
            lines.append(
                f"peak memory of a trial: {statistics.median(peaks):,.0f} MiB, at most {max(peaks):,.0f} MiB, "
                "shared data counted in each"
            )
        lines += [f"FAILED {o.label} [{o.key}]: {o.error}" for o in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"FAILED {len(self.failures) - SHOWN} more: see the tracking store")
        lines += [f"retried: {o.label} [{o.key}], first error: {o.earlier}" for o in self.recovered[:SHOWN]]
        if len(self.recovered) > SHOWN:
            lines.append(f"retried: {len(self.recovered) - SHOWN} more")
        lines += [f"note: {o.label} [{o.key}]: {o.note}" for o in self.outcomes if o.note][:SHOWN]
        if self.pending_uploads:
            waiting = f"{self.pending_uploads} trials are on disk but not in the tracking store"
            lines.append(f"{waiting}: upload them by raybd send {self.name!r}")
        lines += self.errors
        if self.left:
            lines.append(f"{self.left} trials are left: run the same command again to resume")
        return "\n".join(lines)
