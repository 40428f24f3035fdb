"""Processes that a test may see killed, forked by one that has imported the libraries and has no other thread.

A fork of a test process itself, with its threads, can wait for ever; one that starts anew imports for seconds.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SECONDS = 120.0  # no process of a test takes longer
IMPORTED = ("raybd.trials.run",)  # with PyTorch; MLflow would start a thread


def context() -> ForkServerContext:
    """How processes of tests start: forked by a server that has imported what they need."""
    made = get_context("forkserver")
    made.set_forkserver_preload(list(IMPORTED))
    return made


def spawned(work: Callable[..., object], *args: Any) -> BaseProcess:
    """A new process that does `work(*args)`, a function of a module, in this process's environment and folder."""
    process = context().Process(target=_work, args=(dict(os.environ), str(Path.cwd()), work, args))
    process.start()
    return process


def _work(environment: dict[str, str], folder: str, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    work(*args)


def answered(work: Callable[..., Any], *args: Any) -> Any:
    """What `work(*args)`, a function of a module, returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=context()) as pool:
        return pool.submit(work, *args).result(SECONDS)


def exit_status(work: Callable[..., object], *args: Any) -> int:
    """The exit status of a process that does `work(*args)`: 0, 1 after an exception, -N after signal N."""
    process = spawned(work, *args)
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"a process is at work after {SECONDS:g} s")
    return process.exitcode
