"""Locks between processes, and heartbeats while work goes on. Imports nothing of raybd."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout

POLL = 1.0  # seconds between two heartbeats of a process that waits for a lock
JOIN = 1.0  # seconds for a heartbeat that is under way when the work has ended; it may hang in a network


@contextmanager
def heartbeat_thread(heartbeat: Callable[[], None], every: float = 30.0) -> Iterator[None]:
    """A thread that calls `heartbeat` every so many seconds; exceptions that it raises are ignored.

    It has ended when the work has: else it might be the last to hold a tensor, and a process that ends while another
    thread frees one is aborted by C++.
    """
    done = Event()

    def work() -> None:
        while not done.wait(every):
            with suppress(Exception):
                heartbeat()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(JOIN)


@contextmanager
def lock(path: Path, heartbeat: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A lock on the file `path`; while another process holds it, `heartbeat` is called every `POLL` seconds.

    The system releases the lock of a process that dies. The file is open to all users, who may share a folder.

    Raises:
        OSError: the file cannot be made.
    """
    held = FileLock(path, mode=0o666)
    while not held.is_locked:
        try:
            held.acquire(timeout=POLL)
        except Timeout:
            heartbeat()
    try:
        yield
    finally:
        held.release()
