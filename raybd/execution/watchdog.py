"""What ends a trial that hangs: a thread beside it, for it cannot end itself."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HUNG = 17  # exit status of a worker that its watchdog ended
LAST = 10.0  # seconds for its last words


@contextmanager
def watchdog(seconds: float, words: Path | None = None) -> Iterator[Callable[[], None]]:
    """End this process when the yielded function was not called for `seconds`: a hung trial cannot end itself.

    Where it was then is written to `words`.
    """
    last, done = [time.monotonic()], threading.Event()

    def watch() -> None:
        while not done.wait(min(1.0, seconds / 4)):
            if time.monotonic() - last[0] > seconds:
                threading.Timer(LAST, os._exit, (HUNG,)).start()  # a disk may hang too
                if words is not None:
                    _leave(words, f"hung: no sign of life for {seconds:g} s")
                os._exit(HUNG)

    def heartbeat() -> None:
        last[0] = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield heartbeat
    finally:
        done.set()


def _leave(words: Path, why: str) -> None:
    """Write `why`, and where every thread of this process is."""
    with suppress(OSError):
        words.parent.mkdir(parents=True, exist_ok=True)
        with words.open("w") as file:
            print(why, file=file, flush=True)
            faulthandler.dump_traceback(file)
