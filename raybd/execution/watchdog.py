"""The watchdog of a trial: a thread that kills the process when heartbeats stop."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HUNG = 17  # exit status of a process that its watchdog killed
REPORT_SECONDS = 10.0  # time limit for writing the crash report, since a disk may hang too


@contextmanager
def watchdog(seconds: float, crash_report: Path | None = None) -> Iterator[Callable[[], None]]:
    """Yield the heartbeat function; kill this process when it was not called for `seconds`.

    The stacks of its threads are written to `crash_report`.
    """
    last, done = [time.monotonic()], threading.Event()

    def watch() -> None:
        while not done.wait(min(1.0, seconds / 4)):
            if time.monotonic() - last[0] > seconds:
                threading.Timer(REPORT_SECONDS, os._exit, (HUNG,)).start()
                if crash_report is not None:
                    _write(crash_report, f"hung: no heartbeat for {seconds:g} s")
                os._exit(HUNG)

    def heartbeat() -> None:
        last[0] = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield heartbeat
    finally:
        done.set()


def _write(crash_report: Path, why: str) -> None:
    """Write `why` and the stack of every thread of this process."""
    with suppress(OSError):
        crash_report.parent.mkdir(parents=True, exist_ok=True)
        with crash_report.open("w") as file:
            print(why, file=file, flush=True)
            faulthandler.dump_traceback(file)
