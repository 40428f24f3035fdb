"""The watchdog ends a process that no thread of its own could end, and no other."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raybd.execution import watchdog as module
from raybd.execution.watchdog import watchdog
from tests.processes import exit_status


def hold_python_s_lock() -> None:
    while True:  # the signal that asks for stacks ends a sleep
        ctypes.PyDLL(None).sleep(60)


def stop() -> None:
    while True:  # it is let go on to show its stacks
        os.kill(os.getpid(), signal.SIGSTOP)


def ignore_what_may_be_ignored() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    threading.Event().wait(60)


def watched(seconds: float, report: Path, act: Callable[[], None]) -> None:
    with watchdog(seconds, report):
        act()


@pytest.mark.parametrize("act", [hold_python_s_lock, stop, ignore_what_may_be_ignored])
def test_a_process_that_answers_nothing_is_ended_and_its_stacks_are_kept(
    act: Callable[[], None], tmp_path: Path
) -> None:
    report = tmp_path / "of a\ntrial" / "crash_report.txt"

    begun = time.monotonic()
    assert exit_status(watched, 1, report, act) == -signal.SIGKILL
    assert time.monotonic() - begun < 50
    text = report.read_text()
    assert text.startswith("hung: no heartbeat for 1 s\n")
    assert act.__name__ in text


def test_a_stack_that_cannot_be_written_ends_the_process_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    act = ignore_what_may_be_ignored
    assert exit_status(watched, 0.5, tmp_path / "file" / "report", act) == -signal.SIGKILL


def work_for_three_trials(hanging: Path) -> None:
    numbers = set()
    for _ in range(3):
        with watchdog(1) as heartbeat:
            for _ in range(4):
                time.sleep(0.4)
                heartbeat()
        numbers.add(module._watcher().process.pid)
    time.sleep(1.6)  # between trials it may take as long as it likes
    assert len(numbers) == 1
    first = module._watcher().process
    first.kill()
    first.wait()
    with watchdog(1):  # its process is started anew
        hanging.touch()
        time.sleep(60)


def test_it_watches_inside_alone_and_from_trial_to_trial_by_one_process(tmp_path: Path) -> None:
    assert exit_status(work_for_three_trials, tmp_path / "hanging") == -signal.SIGKILL
    assert (tmp_path / "hanging").exists()


def test_it_outlives_signals_to_the_group_and_ends_with_its_process() -> None:
    code = (
        "import os, signal, sys; from raybd.execution.watchdog import watchdog, _watcher\n"
        "with watchdog(1000):\n"
        "    print(_watcher().process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    watcher = int(parent.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(watcher, number)
    time.sleep(0.2)
    assert Path(f"/proc/{watcher}").exists()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{watcher}/cmdline").exists() and Path(f"/proc/{watcher}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_waits_where_both_processes_were_stopped_together() -> None:
    """As `docker pause` and `scontrol suspend` do it: afterwards the trial goes on."""
    code = (
        "import os, sys; from raybd.execution.watchdog import watchdog, _watcher\n"
        "with watchdog(2) as heartbeat:\n"
        "    print(_watcher().process.pid, flush=True); sys.stdin.read(1); heartbeat(); sys.stdin.read(1)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    both = [parent.pid, int(parent.stdout.readline())]
    for number in both:
        os.kill(number, signal.SIGSTOP)
    time.sleep(4)
    parent.stdin.write(b"aa")
    parent.stdin.flush()
    for number in both:
        os.kill(number, signal.SIGCONT)
    assert parent.wait(30) == 0


def test_none_where_the_time_is_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_watcher", lambda: pytest.fail("it was started"))
    with watchdog(float("inf")) as heartbeat:
        heartbeat()


def test_its_process_imports_little() -> None:
    """It is there once for each worker."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='x'); print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(module.SCRIPT)], capture_output=True, check=True)
    assert int(done.stdout) < 80
