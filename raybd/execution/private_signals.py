"""Signals of a private Ray: its processes leave SIGTERM and SIGHUP to the driver, which ends them in order.

A scheduler that ends a job, and a terminal that is closed, signal every process of it. Ray's own would end at once, and
Ray then ends the driver in C++, before it can say a word or save anything. A blocked signal stays pending, where a
worker can see it.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

BLOCKED = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
POLL_SECONDS = 0.02


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

    over = Event()
    Thread(target=_kill_asked, args=(over, ray.is_initialized), daemon=True).start()
    try:
        ray.shutdown()
    finally:
        over.set()


def _kill_asked(over: Event, connected: Callable[[], bool]) -> None:
    """Until it is `over`, kill the children that Ray asks to end once this process is not `connected` any more."""
    while not over.wait(POLL_SECONDS):
        for child in [] if connected() else _asked_children():
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)


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
