"""The faults: each befalls a sweep, and says what the driver did wrong; the sweep is then run again to its end."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.sweeps import Sweep

Fault = Callable[[Sweep, random.Random], list[str]]
ENDS = 60.0  # seconds in which a driver has to end, on a busy machine
KILLS = 10


def kills(sweep: Sweep, rng: random.Random) -> list[str]:
    """The driver is killed again and again, at any moment of its life."""
    for _ in range(KILLS):
        driver = sweep.start("--address", "local")
        time.sleep(rng.uniform(0, 20))
        driver.kill()
        driver.wait()
    return []


def signalled(name: str, group: bool = False, inline: bool = False, times: int = 1) -> Fault:
    """The driver, or all its processes, get a signal while trials run."""
    number = getattr(signal, name)

    def fault(sweep: Sweep, rng: random.Random) -> list[str]:
        driver = sweep.start(*(["--inline"] if inline else ["--address", "local"]))
        sweep.wait_for_trials(driver)
        for _ in range(times):
            (os.killpg if group else os.kill)(driver.pid, number)
            time.sleep(0.5)
        wanted = ["trials are left: run the same command again"] if times == 1 else []
        return ended(sweep, driver, {128 + number}, wanted)

    return fault


def ray_dies(process: str) -> Fault:
    """A process of the driver's own Ray is killed."""

    def fault(sweep: Sweep, rng: random.Random) -> list[str]:
        driver = sweep.start("--address", "local")
        sweep.wait_for_trials(driver)
        for number in children(driver.pid, process):
            os.kill(number, signal.SIGKILL)
        return ended(sweep, driver, {1}, ["has gone away", "trials are left"])

    return fault


def store_deleted(sweep: Sweep, rng: random.Random) -> list[str]:
    """The tracking store is deleted while trials run."""
    driver = sweep.start("--inline")
    sweep.wait_for_trials(driver)
    sweep.store.unlink()
    return ended(sweep, driver, {1}, ["has been deleted or moved while the sweep ran"], limit=200)


def checkpoints_damaged(sweep: Sweep, rng: random.Random) -> list[str]:
    """The sweep is ended, and a bit of each checkpoint is turned."""
    wrong = signalled("SIGTERM", inline=True)(sweep, rng)
    for path in sweep.folder.glob("results/ib/trials/*/checkpoint.pt"):
        bytes_ = bytearray(path.read_bytes())
        bytes_[rng.randrange(len(bytes_))] ^= 1
        path.write_bytes(bytes_)
    return wrong


def ended(
    sweep: Sweep, driver: subprocess.Popen[str], statuses: set[int], wanted: list[str], limit: float = ENDS
) -> list[str]:
    """What is wrong with how the driver ends: its status, and what it should have said."""
    status = sweep.wait(driver, limit)
    if status is None:
        return [f"it had not ended after {limit:g} s"]
    wrong = [f"status {status}"] * (status not in statuses)
    return wrong + [f"did not say {text!r}" for text in wanted if text not in sweep.said]


def children(parent: int, name: str) -> list[int]:
    """The child processes of `parent` whose program is called `name`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            program = (path / "cmdline").read_bytes().split(b"\0")[0]
            ppid = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        if ppid == parent and Path(os.fsdecode(program)).name == name:
            found.append(int(path.name))
    return found


FAULTS: dict[str, Fault] = {
    "driver killed ten times": kills,
    "SIGTERM": signalled("SIGTERM"),
    "SIGHUP": signalled("SIGHUP", inline=True),
    "Ctrl-C": signalled("SIGINT"),
    "Ctrl-C twice": signalled("SIGINT", times=2),
    "SIGTERM in one process": signalled("SIGTERM", inline=True),
    "SIGTERM to all processes": signalled("SIGTERM", group=True),
    "SIGHUP to all processes": signalled("SIGHUP", group=True),
    "gcs killed": ray_dies("gcs_server"),
    "raylet killed": ray_dies("raylet"),
    "store deleted": store_deleted,
    "checkpoints damaged": checkpoints_damaged,
}
