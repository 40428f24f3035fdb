"""Progress line of a running sweep: trials done, running, failed and left, and the time."""

import sys
import time
from typing import TextIO

from raybd.execution.queue import TrialQueue

LINE_SECONDS = 5.0  # between two lines where the output is no terminal


class Progress:
    """Counts of the trials of a queue, printed as one line that a terminal rewrites."""

    def __init__(self, queue: TrialQueue, stream: TextIO | None = None) -> None:
        self.queue = queue
        self.stream = stream  # None: the current sys.stdout
        self._begun, self._printed = time.monotonic(), 0.0

    @property
    def line(self) -> str:
        """The counts, the elapsed time and an estimate of the remaining time."""
        outcomes, running = self.queue.outcomes.values(), len(self.queue.in_flight)
        finished, left = sum(outcome.finished for outcome in outcomes), self.queue.left
        gone, ended = time.monotonic() - self._begun, len(outcomes)
        rest = f", about {format_duration(gone / ended * left)} left" if ended and left else ""
        counts = f"done {finished}  running {running}  failed {ended - finished}  left {left - running}"
        return f"{counts}  {format_duration(gone)}{rest}"

    def show(self) -> None:
        """Print the line, unless the last one was printed just now; always when no trial is left."""
        stream, last = self.stream or sys.stdout, not self.queue.left
        terminal = stream.isatty()
        if not last and time.monotonic() - self._printed < (0.2 if terminal else LINE_SECONDS):
            return
        self._printed = time.monotonic()
        end = "\n" if last or not terminal else ""
        print(("\r\x1b[K" if terminal else "") + self.line, end=end, file=stream, flush=True)


def format_duration(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
