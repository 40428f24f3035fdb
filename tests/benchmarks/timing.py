"""What every benchmark shares: rows of the table, and two sides timed in turn."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raybd.execution.worker_environment import MALLOC_ENVIRONMENT

REPETITIONS = 5
APART = 3  # new processes of each side
PLAIN = "plain"  # the side that is nobody's worker
HEAD = ["name", "ours", "plain reference", "ratio (lowest to highest)", "n", "unit"]
Side = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. `plain` is None where there is nothing to compare with."""

    name: str
    ours: float
    plain: float | None
    n: int  # timed repetitions of each side; the numbers are their medians
    unit: str
    ratios: tuple[float, float] | None = None  # lowest and highest ours / plain among the repetitions

    @property
    def cells(self) -> list[str]:
        """The line as text."""
        if self.plain is None or self.ratios is None:
            return [self.name, figure(self.ours), "-", "-", str(self.n), self.unit]
        ratio = f"{self.ours / self.plain:.2f} ({self.ratios[0]:.2f} to {self.ratios[1]:.2f})"
        return [self.name, figure(self.ours), figure(self.plain), ratio, str(self.n), self.unit]


def figure(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def interleave(sides: Mapping[str, Side], repetitions: int = REPETITIONS) -> dict[str, list[float]]:
    """Seconds of every repetition of every side: A B A B ..., after one run of each that does not count.

    CPU seconds, not those of the clock: all sides run on one thread, wait for nothing, and share the machine.
    """
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            start = time.process_time()
            side()
            seconds[name].append(time.process_time() - start)
    return seconds


def apart(module: str, sides: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """CPU seconds of every side as people run it: A B A B ..., each time a new process, which prints them last.

    `module` is run with the arguments of each side; "plain" as a script of its own, the others with the environment
    of a sweep's worker.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(APART):
        for side, arguments in sides.items():
            environment = own if side == PLAIN else own | MALLOC_ENVIRONMENT
            command = [sys.executable, "-m", module, *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            seconds[side].append(float(done.stdout.split()[-1]))
    return seconds


def rate(name: str, ours: list[float], plain: list[float], images: tuple[int, int]) -> Row:
    """Images/CPU-s of both sides, which handle so many `images` (ours, plain) a repetition; above 1: ours is ahead."""
    fast, slow = ([n / second for second in side] for n, side in zip(images, (ours, plain), strict=True))
    ratios = [a / b for a, b in zip(fast, slow, strict=True)]
    middle = statistics.median(fast), statistics.median(slow)
    return Row(name, *middle, len(ours), "images/CPU-s", (min(ratios), max(ratios)))


def require(equal: bool, what: str) -> None:
    """Stop where the two sides do not compute the same: their times would not be comparable."""
    if not equal:
        raise SystemExit(f"the two sides differ: {what}")


def markdown(rows: list[Row]) -> str:
    """The rows in Markdown, aligned for reading as text."""
    cells = [HEAD, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    text.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(text)
