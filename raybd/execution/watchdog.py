"""The watchdog of a trial: a small process that kills this one when heartbeats stop.

It works where no thread of this process would: in code that holds Python's lock for ever, and while the process is
stopped. It ends with this process, and is kept from trial to trial.
"""

import atexit
import faulthandler
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRIPT = Path(__file__).with_name("watchdog_process.py")
_kept: dict[int, "_Watcher"] = {}  # by the number of the process that it watches: a fork is another one


@contextmanager
def watchdog(seconds: float, crash_report: Path | None = None) -> Iterator[Callable[[], None]]:
    """Yield the heartbeat function; this process is killed when that was not called for `seconds` (inf: never).

    Why, and the stacks of all threads, are written to `crash_report`. One at a time in a process.
    """
    if math.isinf(seconds):
        yield lambda: None
        return
    watcher = _watcher()
    report = b"" if crash_report is None else os.fsencode(crash_report)
    watcher.send(f"{seconds!r} {report.hex()}\n", block=True)
    faulthandler.register(signal.SIGUSR2, file=watcher.stacks, all_threads=True)
    last, every = time.monotonic(), min(1.0, seconds / 8)

    def heartbeat() -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            watcher.send("\n")

    try:
        yield heartbeat
    finally:
        watcher.send("-\n", block=True)
        faulthandler.unregister(signal.SIGUSR2)


def _watcher() -> "_Watcher":
    """The process that watches this one, started if need be."""
    known = _kept.get(os.getpid())
    if known is None or known.process.poll() is not None:
        _kept.clear()
        known = _kept[os.getpid()] = _Watcher()
    return known


class _Watcher:
    """A process of `watchdog_process.py`, and the pipes to it."""

    def __init__(self) -> None:
        read, self.stacks = os.pipe()
        command = [sys.executable, "-I", "-S", str(SCRIPT), str(read)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(read,), start_new_session=True
        )
        os.close(read)
        assert self.process.stdin is not None
        self._input = self.process.stdin.fileno()
        atexit.register(self.close)

    def send(self, text: str, block: bool = False) -> None:
        """Send a line, if the process takes it now, or where `block`; one that has died watches no more."""
        os.set_blocking(self._input, block)
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._input, text.encode())

    def close(self) -> None:
        """End it."""
        if os.getpid() in _kept and self.process.stdin is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self.process.stdin.close()
                self.process.wait(5)
