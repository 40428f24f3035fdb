"""The driver is killed, started twice, interrupted twice: as people do it, with processes."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from raybd.tracking import load_runs

pytestmark = [pytest.mark.ray, pytest.mark.calibration]  # minutes; `make chaos` has these faults, and more

SCRIPT = Path(__file__).parent.parent / "sweeps" / "ib.py"
SWEEP = (
    "--epochs 4 --weight-decays 5e-4 --widths 1.0 --poison-rates 0.1 --attacks badnets --seeds 8 --noise 0 "
    "--metrics smoothness --model tests.misbehaving:by_ticket"
).split()


def started(folder: Path, tickets: int, *args: str) -> subprocess.Popen[str]:
    """A driver of which `tickets` trials may train: one ended by a test has work left, however fast the machine is."""
    own = folder / f"tickets{uuid.uuid4()}"  # a killed driver's workers live on for a moment, and would take others'
    own.mkdir()
    for ticket in range(tickets):
        (own / f"ticket{ticket}").touch()
    command = [sys.executable, str(SCRIPT), *SWEEP, *args]
    environment = os.environ | {"RAYBD_TEST_FLAGS": str(own)}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        text=True,
        env=environment,
        start_new_session=True,
    )


def statuses(folder: Path) -> dict[str, list[str]]:
    runs = load_runs("ib", f"sqlite:///{folder}/mlflow.db")
    if "tags.raybd.key" not in runs:  # no trial has begun
        return {}
    return {str(key): list(some["status"]) for key, some in runs.groupby("tags.raybd.key")}


def finished(folder: Path) -> int:
    return sum(runs.count("FINISHED") for runs in statuses(folder).values())


def wait_for_a_trial(process: subprocess.Popen[str], folder: Path, more_than: int = 0) -> None:
    """Asks the store, as lines of progress come only every so often."""
    assert process.stdout is not None
    seen = []
    while not (seen and seen[-1].startswith("done ")):
        seen.append(process.stdout.readline())
        assert seen[-1], "".join(seen)  # the driver has ended
    while finished(folder) <= more_than:
        assert process.poll() is None
        time.sleep(0.2)


def test_ctrl_c_leaves_what_has_finished(tmp_path: Path) -> None:
    driver = started(tmp_path, 2, "--address", "local")
    wait_for_a_trial(driver, tmp_path)
    driver.send_signal(signal.SIGINT)
    rest = driver.communicate(timeout=60)[0]
    assert driver.returncode == 130, rest
    done = finished(tmp_path)
    assert 1 <= done <= 2
    assert all("RUNNING" not in runs for runs in statuses(tmp_path).values())
    assert f"{8 - done} trials are left" in rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_every_process_of_a_job_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """As Slurm does before it kills a job's processes, and a terminal that is closed: Ray's own are among them."""
    driver = started(tmp_path, 2, "--address", "local")
    wait_for_a_trial(driver, tmp_path)
    os.killpg(driver.pid, number)
    rest = driver.communicate(timeout=60)[0]
    assert driver.returncode == 128 + number, rest
    done = finished(tmp_path)
    assert 1 <= done <= 2
    assert all("RUNNING" not in runs for runs in statuses(tmp_path).values())
    assert f"{8 - done} trials are left" in rest


def test_started_twice_then_killed_then_interrupted_twice_then_finished(tmp_path: Path) -> None:
    """Four drivers of one sweep in turn, and one too many: in the end every trial has finished once."""
    first = started(tmp_path, 2, "--address", "local")
    wait_for_a_trial(first, tmp_path)
    second = started(tmp_path, 0, "--inline")
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another process is at work" in said
    os.kill(first.pid, signal.SIGKILL)
    first.wait(10)
    before = finished(tmp_path)
    assert 1 <= before < 8

    third = started(tmp_path, 2, "--address", "local")
    wait_for_a_trial(third, tmp_path, before)
    for _ in range(2):
        third.send_signal(signal.SIGINT)
        time.sleep(0.5)
    rest = third.communicate(timeout=60)[0]
    assert third.returncode == 130, rest
    assert "raybd/sweep" not in rest  # no traceback of ours
    between = finished(tmp_path)
    assert before < between < 8

    last = started(tmp_path, 8, "--inline")
    said, _ = last.communicate(timeout=120)
    assert last.returncode == 0, said
    # A trial whose record was whole when its driver ended, but not yet uploaded, is found on disk now.
    kept, left = map(int, re.findall(r"(\d+) trials have finished, (\d+) to run", said)[0])
    assert between <= kept <= before + 2  # of the two that the third driver could train
    assert kept + left == 8
    ends = statuses(tmp_path)
    assert len(ends) == 8
    assert all(runs.count("FINISHED") == 1 for runs in ends.values())
    assert all(set(runs) <= {"FINISHED", "KILLED"} for runs in ends.values())
    parents = load_runs("ib", f"sqlite:///{tmp_path}/mlflow.db")["tags.mlflow.parentRunId"]
    assert parents.nunique() == 1
