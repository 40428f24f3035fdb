"""Runs a user's command: its output in a log, a time limit, a heartbeat while it runs."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from raybd.errors import ScriptError, ScriptKilledError

POLL = 0.5  # seconds between two heartbeats
SHOWN = 15  # last lines of the output in a message
WIDEST = 300  # characters of such a line
TAIL = 2**16  # bytes of the log that are looked at for them
# The standard input is a pipe that nobody writes to: it ends when this process does, killed or not, and with it the
# command's process group. The command itself reads nothing.
GUARDED = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL -$$) & exec 3<&-; exec /bin/sh -c "$0"'


def run_command(
    what: str,
    command: str,
    log: Path,
    *,
    folder: str | Path,
    environment: Mapping[str, str],
    limit: float = 0.0,
    heartbeat: Callable[[], None] = lambda: None,
) -> float:
    """Run the shell `command` with its output in `log`; the seconds that it took.

    It has a process group of its own, which ends with it, and with this process: nothing that it started goes on.

    Args:
        what: the command is for, in messages: train or predict.
        command: of a POSIX shell.
        log: file for standard output and standard error.
        folder: in which it runs.
        environment: variables beside those of this process.
        limit: seconds after which it is killed; 0: never.
        heartbeat: called while it runs; what it raises ends the command.

    Raises:
        ScriptError: its exit status is not 0, or it ran too long.
        ScriptKilledError: a signal ended it.
    """
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, command],
            cwd=folder or None,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = _wait(process, start, limit, heartbeat)
        finally:
            _end_group(process)
    _check(what, command, status, log, limit)
    return time.monotonic() - start


def _wait(process: "subprocess.Popen[bytes]", start: float, limit: float, heartbeat: Callable[[], None]) -> int | None:
    """The exit status; None where the time is over."""
    while True:
        try:
            return process.wait(timeout=POLL)
        except subprocess.TimeoutExpired:
            heartbeat()
        if limit and time.monotonic() - start > limit:
            return None


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _check(what: str, command: str, status: int | None, log: Path, limit: float) -> None:
    if status == 0:
        return
    said = f"of its output, kept in {log.name}:\n{last_lines(log)}"
    if status is None:
        raise ScriptError(f"{what} ran longer than --time-limit {limit:g} s and was ended; the last lines {said}")
    number = -status if status < 0 else status - 128
    if number in {one.value for one in signal.Signals}:
        raise ScriptKilledError(f"{what} was ended by {signal.Signals(number).name}; the last lines {said}")
    raise ScriptError(f"{what} ended with exit status {status}: {command}; the last lines {said}")


def last_lines(log: Path) -> str:
    """The last lines of a log, "(nothing)" where it is empty."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip()[:WIDEST] for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-SHOWN:]) or "(nothing)"
