"""The process of a watchdog: kills its parent when that sends no heartbeat. Run as a script, it imports little.

Its standard input has a line for each heartbeat (empty), for the beginning of a watch (SECONDS, and the crash report's
path in hexadecimal) and for its end ("-"); argument: the descriptor that the stacks of the parent's threads come from.
"""

import os
import select
import signal
import sys
import time

READ_SECONDS = 5.0  # for the stacks of the parent's threads, and for the crash report, since a disk may hang
QUIET_SECONDS = 0.5  # without another stack, after which they are whole


def main() -> None:
    """Watch the parent until it ends or is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the parent, with which this process ends
    parent, stacks, lines = os.getppid(), int(sys.argv[1]), b""
    limit, report, silence, looked = float("inf"), b"", 0.0, time.monotonic()
    while os.getppid() == parent:
        poll = min(1.0, limit / 8)
        if select.select([0], [], [], poll)[0]:
            read = os.read(0, 65536)
            if not read:
                return
            silence = 0.0
            *whole, lines = (lines + read).split(b"\n")
            for line in filter(None, whole):
                limit, report = _watch(line.decode())
        passed, looked = time.monotonic() - looked, time.monotonic()
        silence += min(passed, 4 * poll)  # while this process was stopped too, nothing could be heard
        if silence > limit:
            _end(parent, stacks, limit, report)
            return


def _watch(line: str) -> "tuple[float, bytes]":
    """Limit in seconds and crash report of a watch, of the line that begins or ends one."""
    seconds, _, report = line.partition(" ")
    return (float("inf"), b"") if line == "-" else (float(seconds), bytes.fromhex(report))


def _end(parent: int, stacks: int, limit: float, report: bytes) -> None:
    """Ask `parent` for the stacks of its threads, write the crash report, and kill it."""
    os.kill(parent, signal.SIGUSR2)
    os.kill(parent, signal.SIGCONT)  # one that is stopped answers nothing
    text, end = b"", time.monotonic() + READ_SECONDS
    while time.monotonic() < end and select.select([stacks], [], [], QUIET_SECONDS if text else READ_SECONDS)[0]:
        text += os.read(stacks, 65536)
    why = f"hung: no heartbeat for {limit:g} s"
    print(f"raybd: {why}: killed, see {os.fsdecode(report) or 'its log'}", file=sys.stderr, flush=True)
    if report:
        _write(report, f"{why}\n".encode() + text)
    if os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)


def _write(report: bytes, text: bytes) -> None:
    """Write the crash report, in a thread that is left to itself where it takes too long."""
    from pathlib import Path
    from threading import Thread

    def write() -> None:
        path = Path(os.fsdecode(report))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        except OSError:
            return

    writing = Thread(target=write, daemon=True)
    writing.start()
    writing.join(READ_SECONDS)


if __name__ == "__main__":
    main()
