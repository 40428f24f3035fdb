"""Signals that end a process: Ctrl-C, SIGTERM (kill, `docker stop`, Slurm), SIGHUP (a terminal that is closed)."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import NoReturn

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SignalError(KeyboardInterrupt):
    """A first signal that ends the process; a second Ctrl-C is Python's own KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def kept_handlers() -> Iterator[None]:
    """After it, signals have the handlers that they had before: libraries set their own without asking (Ray)."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        if current_thread() is main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def first_signal(call: Callable[[int], None]) -> Iterator[None]:
    """Inside, the first signal that ends a process calls `call` with its number instead, a second one ends it.

    A signal that the process ignores (SIGHUP under nohup) stays so. A thread gets no signals: there nothing changes.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        call(number)

    with kept_handlers():
        if current_thread() is main_thread():
            for number in ENDING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, first)
        yield


def leave_closed_pipe() -> int:
    """The exit status of a program whose output nobody reads any more (`raybd runs ib | head`), which then prints
    nothing, nor Python's word at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def say(text: str) -> None:
    """Print `text`; where nobody reads the output any more, print nothing from now on: the work goes on without it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        leave_closed_pipe()


def raise_signal(number: int) -> NoReturn:
    """Raise SignalError: what a first signal does where nothing has to be ended in order."""
    raise SignalError(number)
