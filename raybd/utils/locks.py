"""Work that several processes need and one does. Imports nothing of raybd."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout

PATIENCE = 1.0  # seconds between two signs of life of whoever waits


@contextmanager
def heartbeat_thread(heartbeat: Callable[[], None], every: float = 30.0) -> Iterator[None]:
    """Call `heartbeat` now and then in a thread of its own; what it raises is of no account."""
    done = Event()

    def work() -> None:
        while not done.wait(every):
            with suppress(Exception):
                heartbeat()

    Thread(target=work, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def held(lock: Path, heartbeat: Callable[[], None]) -> Iterator[None]:
    """Hold `lock`; while another process does, wait and call `heartbeat`. The system frees the lock of one that dies.

    Raises:
        OSError: the lock cannot be made.
    """
    holder = FileLock(lock)
    while not holder.is_locked:
        try:
            holder.acquire(timeout=PATIENCE)
        except Timeout:
            heartbeat()
    try:
        yield
    finally:
        holder.release()


def once(done: Callable[[], bool], work: Callable[[], None], lock: Path, heartbeat: Callable[[], None]) -> None:
    """Do `work` under `lock` unless it is `done`; while another process holds the lock, wait and call `heartbeat`.

    The system frees the lock of a process that dies: one of those that wait takes over.

    Raises:
        OSError: the lock cannot be made.
    """
    holder = FileLock(lock)
    while not done():
        try:
            with holder.acquire(timeout=PATIENCE):
                if not done():
                    work()
        except Timeout:
            heartbeat()
