"""Requests to end a trial early: who runs it says when, and it ends after its next checkpoint. Knows no signal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from raybd.errors import EndRequestedError

GRACE = 8.0  # seconds for a checkpoint, after which a heartbeat ends the trial: Ray Tune kills it after 10
Asked = Callable[[], bool]
_asked: ContextVar[Asked] = ContextVar("asked", default=lambda: False)


@contextmanager
def ending_when(asked: Asked) -> Iterator[None]:
    """Inside, in this thread, work is to end early once `asked` says so."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def end_requested() -> bool:
    """Whether the work of this thread is to end early."""
    return _asked.get()()


def ending_heartbeat(heartbeat: Callable[[], None]) -> Callable[[], None]:
    """`heartbeat`, which raises EndRequestedError where no checkpoint has within GRACE seconds of the request."""
    since: list[float] = []

    def beat() -> None:
        heartbeat()
        if end_requested():
            since.append(time.monotonic())
            if since[-1] - since[0] > GRACE:
                raise EndRequestedError

    return beat
