"""Signals of a private Ray's processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd.execution.private_signals import BLOCKED, _asked_children, blocked_signal_came, children_block_signals
from raybd.execution.stop_file import StopFile, StopPoll

MASK = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"


@pytest.fixture
def blocking() -> Iterator[None]:
    """As in a worker of a private Ray."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    yield
    while blocked_signal_came():
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_children_block_what_their_parent_gets() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with children_block_signals():
        inside = subprocess.run([sys.executable, "-c", MASK], capture_output=True, text=True, check=True).stdout
    after = subprocess.run([sys.executable, "-c", MASK], capture_output=True, text=True, check=True).stdout
    assert all(repr(number) in inside for number in BLOCKED)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert not any(repr(number) in after for number in set(BLOCKED) - before)


@pytest.mark.parametrize("number", BLOCKED)
@pytest.mark.usefixtures("blocking")
def test_a_worker_sees_a_signal_once(tmp_path: Path, number: int) -> None:
    poll = StopPoll(StopFile(tmp_path / "stop", "start"))
    assert not poll()
    signal.pthread_kill(threading.get_ident(), number)
    time.sleep(0.3)  # it looks every quarter of a second
    assert poll()
    assert poll()  # this trial is to end, however often it asks
    assert not blocked_signal_came()  # the next one is not


def test_where_signals_are_not_blocked_none_is_taken() -> None:
    assert not blocked_signal_came()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no pending signals")
def test_a_child_that_was_asked_to_end_is_found() -> None:
    with children_block_signals():
        child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid not in _asked_children()
        child.terminate()
        assert child.pid in _asked_children()
        assert child.poll() is None
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
