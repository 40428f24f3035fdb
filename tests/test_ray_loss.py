"""Real Rays of `ray start`: whose they are, and a sweep that loses one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd.execution import ray_choice
from raybd.execution.ray_choice import choose, own_rays
from tests.conftest import free_port
from tests.test_faults_driver import finished, wait_for_a_trial
from tests.test_faults_driver import started as begun

pytestmark = pytest.mark.ray

START = "start --head --num-cpus=1 --include-dashboard=false --object-store-memory=100000000"
OWN = """
import ray
print(ray.init(address="local", num_cpus=1, include_dashboard=False).address_info["gcs_address"], flush=True)
input()
"""  # another program of the same user, with a Ray of its own


class Started:
    """A Ray of `ray start`, in a folder of its own, and its processes."""

    def __init__(self, folder: str) -> None:
        self.folder, port = folder, free_port()
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            *START.split(),
            f"--port={port}",
            f"--temp-dir={folder}",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = (Path(folder) / "ray_current_cluster").read_text().strip()

    def kill(self) -> None:
        """Kill its processes, and those that they were just starting, until none is left."""
        ends = time.monotonic() + 30
        while (processes := self._processes()) and time.monotonic() < ends:
            for process in processes:
                with contextlib.suppress(OSError):  # it has ended
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.folder in (process / "cmdline").read_text():  # empty of one that only waits to be reaped
                    found.append(int(process.name))
        return found


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")  # short: Ray makes sockets in it
    made = Started(folder)
    yield made
    made.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_ray_of_ray_start_is_joined_a_program_s_own_is_not_and_a_dead_one_is_none(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_choice, "SECONDS", 90)  # two Rays are just starting beside other tests
    with subprocess.Popen([sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as own:
        try:
            assert own.stdout is not None
            other = own.stdout.readline().strip()
            found = {ray.address for ray in own_rays()}
            assert started.address in found
            assert other not in found
            assert choose(started.address).address == started.address  # it answers
        finally:
            own.kill()
    started.kill()
    assert started.address not in {ray.address for ray in own_rays()}
    assert (Path(started.folder) / "ray_current_cluster").exists()


@pytest.mark.calibration  # about a minute
def test_a_sweep_whose_ray_is_killed_keeps_what_has_finished(started: Started, tmp_path: Path) -> None:
    slow = "--model tests.misbehaving:slow --epochs 3 --metrics"  # a worker of this Ray has none of the tests' flags
    driver = begun(tmp_path, 0, "--address", started.address, *slow.split())
    assert driver.stdout is not None
    assert f"Ray: joins the one at {started.address}, which --address names" in driver.stdout.readline()
    wait_for_a_trial(driver, tmp_path)
    started.kill()
    killed = time.monotonic()
    said = driver.communicate(timeout=120)[0]
    assert driver.returncode == 1, said
    assert time.monotonic() - killed < 100  # 15 on a quiet machine
    assert f"\nthe Ray at {started.address} has gone away: its node on this machine has died\n" in said
    done = finished(tmp_path)
    assert 1 <= done < 8
    assert f"{done} trials finished, 0 had finished before" in said
    assert f"{8 - done} trials are left: run the same command again to resume" in said
