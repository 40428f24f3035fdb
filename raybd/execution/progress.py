"""What a person sees while a sweep runs: one line of counts."""

import sys
import time
from typing import TextIO

from raybd.execution.queue import TrialQueue

EVERY = 5.0  # seconds between lines where the terminal cannot rewrite one


class Progress:
    """Counts of the trials of a queue, printed as one line that a terminal rewrites."""

    def __init__(self, queue: TrialQueue, stream: TextIO | None = None) -> None:
        self.queue = queue
        self.stream = stream  # None: standard output as it is then
        self._begun, self._printed = time.monotonic(), 0.0

    @property
    def line(self) -> str:
        """The counts, the time gone, and about how much is left."""
        outcomes, running = self.queue.outcomes.values(), len(self.queue.in_flight)
        finished, left = sum(outcome.finished for outcome in outcomes), self.queue.left
        gone, ended = time.monotonic() - self._begun, len(outcomes)
        rest = f", about {clock(gone / ended * left)} left" if ended and left else ""
        return (
            f"done {finished}  running {running}  failed {ended - finished}  left {left - running}  {clock(gone)}{rest}"
        )

    def show(self) -> None:
        """Print the line if the last one is old enough, or nothing is left."""
        stream, last = self.stream or sys.stdout, not self.queue.left
        terminal = stream.isatty()
        if not last and time.monotonic() - self._printed < (0.2 if terminal else EVERY):
            return
        self._printed = time.monotonic()
        end = "\n" if last or not terminal else ""
        print(("\r\x1b[K" if terminal else "") + self.line, end=end, file=stream, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
