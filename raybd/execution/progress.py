"""Progress of a running sweep: trials done, running, failed and left, and the time left; a bar on a terminal."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from raybd.execution.queue import TrialQueue
from raybd.utils.locks import heartbeat_thread

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_SECONDS = 5.0  # between two lines where the output is no terminal
REFRESH = 2.0  # times a second that a terminal's bar is drawn
RECENT = 20  # trials by which the time left is told


@dataclass(frozen=True)
class Counts:
    """How many trials of a sweep are where."""

    done: int  # finished, or stopped by their early warning
    failed: int
    running: int
    waiting: int

    @property
    def ended(self) -> int:
        """Those that are over."""
        return self.done + self.failed

    @property
    def total(self) -> int:
        """All that are known so far: a search may propose more."""
        return self.ended + self.running + self.waiting

    def __str__(self) -> str:
        return f"done {self.done}  running {self.running}  failed {self.failed}  left {self.waiting}"


class Progress:
    """Counts of the trials of a queue. Inside `shown` they are drawn as a bar on a terminal, and else are lines.

    Executors report each trial's start and end; what is shown is read off when it is drawn, by a thread, so that lines
    do not show the moment between the end of a trial and the start of the next.
    """

    def __init__(
        self, queue: TrialQueue, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.queue = queue
        self.stream = stream  # None: sys.stdout as it is when the sweep begins
        self._clock, self._begun = clock, clock()
        self._started: dict[str, float] = {}  # key -> when its latest attempt started
        self._at_once = 1  # most that ran together
        self._seconds = deque[float](maxlen=2 * RECENT)  # that trials took, the latest last
        self._counts = Counts(0, 0, 0, queue.left)
        self._printed = ""  # counts on the last line

    def started(self, key: str) -> None:
        """An attempt at the trial `key` starts."""
        self._started.setdefault(key, self._clock())
        self._at_once = max(self._at_once, len(self._started))

    def ended(self, key: str) -> None:
        """The trial `key` is over, or goes back to the queue."""
        if (start := self._started.pop(key, None)) is not None:
            self._seconds.append(self._clock() - start)

    def all_ended(self) -> None:
        """Nothing runs: the executor failed, and starts again."""
        self._started.clear()

    @property
    def counts(self) -> Counts:
        """The counts now; what has been handed out but not started is waiting."""
        with suppress(RuntimeError):  # trials came or went while they were counted: the counts before will do
            outcomes = list(self.queue.outcomes.values())
            done, running = sum(outcome.finished or outcome.warned for outcome in outcomes), len(self._started)
            self._counts = Counts(done, len(outcomes) - done, running, max(0, self.queue.left - running))
        return self._counts

    @property
    def seconds_left(self) -> float | None:
        """From how long recent trials took and how many run at once; None before one has ended.

        Recent is the later half: the first trials of a worker wait for its imports and its data.
        """
        if not self._seconds:
            return None
        recent, now = list(self._seconds)[len(self._seconds) // 2 :], self._clock()
        each = sum(recent) / len(recent)
        rest = [max(0.0, each - (now - start)) for start in list(self._started.values())]
        return max([(each * self.counts.waiting + sum(rest)) / self._at_once, *rest])

    @property
    def line(self) -> str:
        """The counts, the elapsed time and an estimate of the time left."""
        return f"{self.counts}  {self._times()}"

    def _times(self) -> str:
        """The elapsed time and an estimate of the time left."""
        left = self.seconds_left if self._counts.ended < self._counts.total else None
        rest = "" if left is None else f", about {format_duration(left)} left"
        return f"{format_duration(self._clock() - self._begun)}{rest}"

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Inside, the progress is shown, and at its end how the trials ended."""
        stream = self.stream or sys.stdout
        with self._bar(stream) if stream.isatty() else self._lines(stream):
            yield self

    @contextmanager
    def _lines(self, stream: TextIO) -> Iterator[None]:
        try:
            with heartbeat_thread(lambda: self._print(stream), LINE_SECONDS):
                yield
        finally:
            self._print(stream)

    def _print(self, stream: TextIO) -> None:
        """Print the line if its counts have changed."""
        if (counts := str(self.counts)) != self._printed:
            self._printed = counts
            with suppress(BrokenPipeError):  # nobody reads it any more: the trials go on
                print(self.line, file=stream, flush=True)

    def _bar(self, stream: TextIO) -> Any:
        from rich.console import Console  # here: a run in a pipe needs none of it
        from rich.live import Live

        console = Console(file=stream)
        return Live(console=console, get_renderable=self._drawn, refresh_per_second=REFRESH)

    def _drawn(self) -> "RenderableType":
        """The bar and the line under it, each within the terminal's width."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        counts, rows = self.counts, Table.grid(expand=True)
        rows.add_row(ProgressBar(total=max(counts.total, 1), completed=counts.ended))
        rows.add_row(Text(self.line, no_wrap=True, overflow="ellipsis"))
        return rows


def format_duration(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
