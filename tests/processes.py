"""Processes that a test may see killed, started anew: a fork of a test process with threads can wait for ever."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

SECONDS = 120.0  # no process of a test takes longer


def spawned(work: Callable[..., object], *args: Any) -> BaseProcess:
    """A new process that does `work(*args)`, which is a function of a module."""
    process = get_context("spawn").Process(target=work, args=args)
    process.start()
    return process


def exit_status(work: Callable[..., object], *args: Any) -> int:
    """The exit status of a process that does `work(*args)`: 0, 1 after an exception, -N after signal N."""
    process = spawned(work, *args)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"a process is at work after {SECONDS:g} s")
    return process.exitcode
