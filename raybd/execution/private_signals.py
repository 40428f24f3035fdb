"""Signals of a private Ray: its processes leave SIGTERM and SIGHUP to the driver, which ends them in order.

A scheduler that ends a job, and a terminal that is closed, signal every process of it. Ray's own would end at once, and
Ray then ends the driver in C++, before it can say a word or save anything. A blocked signal stays pending, where a
worker can see it.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

BLOCKED = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
POLL_SECONDS = 0.02
SETTLE_SECONDS = 5.0  # within which Ray has asked its processes to end


@contextmanager
def children_block_signals() -> Iterator[None]:
    """Inside, processes that this thread starts inherit BLOCKED as blocked; this process gets them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def blocked_signal_came() -> bool:
    """Whether this process was sent one of BLOCKED since it was last asked; False where they are not blocked.

    It is taken: a worker that runs another trial afterwards is not asked to end again.
    """
    came = False
    if set(BLOCKED) <= signal.pthread_sigmask(signal.SIG_BLOCK, []) and hasattr(signal, "sigtimedwait"):
        while signal.sigtimedwait(BLOCKED, 0) is not None:
            came = True
    return came


def shut_down_ray() -> None:
    """End or leave the Ray of this process; its own processes, which block SIGTERM, are killed once Ray sends it.

    Otherwise Ray waits a second for each of them.
    """
    import ray

    Thread(target=_kill_asked, daemon=True).start()
    ray.shutdown()


def _kill_asked() -> None:
    """Kill the children that Ray asks to end once it has let go of this process."""
    ray = sys.modules["ray"]
    while ray.is_initialized():
        time.sleep(POLL_SECONDS)
    ends = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < ends:
        for child in _asked_children():
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _asked_children() -> list[int]:
    """Children of this process for which SIGTERM is pending and blocked; none where the system does not tell."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/status") if _asked(path)]


def _asked(status: Path) -> bool:
    try:
        lines = status.read_text().splitlines()
    except OSError:  # it has ended
        return False
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    asked = int(fields.get("ShdPnd", "0"), 16) & int(fields.get("SigBlk", "0"), 16)  # pending, and blocked
    return fields.get("PPid") == str(os.getpid()) and bool(asked >> (signal.SIGTERM - 1) & 1)
