"""The test itself, inside the namespaces that `python -m tests.cluster` makes for it."""

import os
import re
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest
from ray._private.utils import get_num_cpus

from raybd.errors import InputError
from raybd.tracking import load_record, load_runs
from tests.cluster import machines
from tests.cluster.laptop import ROOT, SLOWEST, Laptop, StageError, prepare
from tests.cluster.machines import USER, Machine

HEAD, WORKERS = "10.0.0.1", {"worker1": "10.0.0.2", "worker2": "10.0.0.3"}
TRACKING = f"http://{HEAD}:5000"
AXES = "--poison-rates 0 0.05 0.1 --widths 0.5 --weight-decays 0.0001 0.0005"
CPUS = get_num_cpus()  # by Ray; every machine has those of the one that plays them all, and runs one trial at a time
LIGHT = f"--noise 0 --metrics smoothness {AXES} --cpus-per-trial {0.75 * CPUS:g}"  # 12 trials a seed
DOOR = "http://localhost:8265"
TOKEN = {"RAY_AUTH_MODE": "token"}


class Lab:
    """The laptop, the machines that have been started, and what has been found out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.laptop: Laptop = prepare(folder / "laptop", HEAD, list(WORKERS.values()), USER)
        self.machines: dict[str, Machine] = {}

    def start(self, name: str, address: str) -> Machine:
        made = machines.start(name, address, self.folder, self.laptop.key, ROOT / ".venv/wheels")
        self.machines[name] = made
        return made

    def secret(self, name: str) -> str:
        return (self.laptop.folder / "home/.raybd/secrets" / name).read_text()


def secrets(lab: Lab) -> None:
    lab.laptop.types("bash cluster/secrets.sh")
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": lab.secret("mlflow_password")}


def head(lab: Lab) -> None:
    """A bare machine becomes the head: everything is installed by `ray up`."""
    made = lab.start("head", HEAD)
    assert not (made.home / ".raybd").exists()
    (made.home / "analysis").mkdir()  # of somebody's own: it must not be taken for the package
    lab.laptop.types("ray up -y cluster.yaml", seconds=240)
    assert (made.home / ".raybd/venv/bin/ray").exists()


def workers(lab: Lab) -> None:
    """Two machines with the packages of the head: the head finds them, sets them up and starts Ray there."""
    for name, address in WORKERS.items():
        machines.clone_packages(lab.machines["head"], lab.folder / name)
        lab.start(name, address)
    until(lambda: all_there(lab), 90)


def submit(lab: Lab) -> None:
    """The line of the README; every trial is on the head's MLflow once, and every worker ran some."""
    expected = keys(lab, options := f"--name submitted {LIGHT} --seeds 1 --epochs 2")
    said = lab.laptop.types(f"ray submit cluster.yaml sweeps/ib.py -- {options}")
    assert f"{len(expected)} to run" in said, said
    runs = check_once("submitted", expected)
    assert set(WORKERS) <= set(hosts("submitted"))
    assert set(runs["tags.raybd.commit"]) == {commit(lab)}


def refuse(lab: Lab) -> None:
    """Who has no password and no token gets in nowhere."""
    search = urllib.request.Request(f"{TRACKING}/api/2.0/mlflow/experiments/search?max_results=5")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(search, timeout=10 * SLOWEST)
    join = f"python -c 'import ray; ray.init(\"{HEAD}:6379\")'"
    for mode, token in (("disabled", ""), ("token", "0" * 64)):
        given = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": token}
        said = lab.laptop.types(f"timeout {20 * SLOWEST} {join}; test $? != 0", **given)
        assert "uthenticat" in said, said


def job(lab: Lab) -> None:
    """The other door, through `ray dashboard`: the job outlives the client that submitted it."""
    expected = keys(lab, options := f"--name job {LIGHT} --seeds 1 --epochs 2")
    token = TOKEN | {"RAY_AUTH_TOKEN_PATH": str(lab.laptop.folder / "home/.raybd/secrets/ray_token")}
    with in_background(lab, "ray dashboard cluster.yaml", "dashboard"):
        until(
            lambda: "uthenticat" in lab.laptop.types(f"timeout {10 * SLOWEST} ray job list --address {DOOR}; true"), 30
        )
        give = " ".join(f"{name}={value}" for name, value in token.items())
        command = f"env {give} ray job submit --address {DOOR} --working-dir . -- python sweeps/ib.py {options}"
        with in_background(lab, command, "client") as said:
            until(lambda: f"{len(expected)} to run" in said.read_text(), 60)  # and then the client is killed
        [name] = set(re.findall(r"raysubmit_\w+", said.read_text()))
        ask = f"ray job status --address {DOOR} {name}"
        assert "RUNNING" in lab.laptop.types(ask, **token)
        until(lambda: "RUNNING" not in lab.laptop.types(ask, **token), 90)
        lab.laptop.types(f"ray job logs --address {DOOR} {name}; {ask} | grep succeeded", **token)
    check_once("job", expected)


def lose_a_worker(lab: Lab) -> None:
    """A machine goes off while it runs trials: they run elsewhere, and none is there twice.

    The line has no `--` before the sweep's options, which Ray does not ask for.
    """
    expected = keys(lab, options := f"--name killed {LIGHT} --seeds 2 --epochs 16")
    with in_background(lab, f"ray submit cluster.yaml sweeps/ib.py {options}", "killed") as said:
        until(lambda: "worker2" in hosts("killed"), 90)
        lab.machines["worker2"].cut_power()
        before = hosts("killed")
        assert len(before) < len(expected) - 4, "the machine went off too late to prove anything"
        until(lambda: "Ask the map" in said.read_text(errors="replace"), 150)
        assert f"{len(expected)} trials finished" in said.read_text(errors="replace")
    check_once("killed", expected)
    assert hosts("killed").count("worker2") == before.count("worker2") > 0


def down(lab: Lab) -> None:
    """The results come home; Ray ends, and MLflow and its data stay."""
    lab.laptop.types("ray rsync-down cluster.yaml '~/raybd-results/submitted' fetched/")
    assert (lab.laptop.checkout / "fetched/submitted/map.png").stat().st_size > 10_000
    lab.laptop.types("ray down -y cluster.yaml")
    assert "raylet" not in lab.laptop.types(f"ssh {SSH} -i {lab.laptop.key} {USER}@{HEAD} ps -e -o comm")
    assert len(finished("submitted")) == len(finished("job")) == 12


STAGES: list[Callable[[Lab], None]] = [secrets, head, workers, submit, refuse, job, lose_a_worker, down]
SSH = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"


# --- what the stages look at -----------------------------------------------------------------------------------------


def all_there(lab: Lab) -> bool:
    """Whether Ray has the CPUs of all machines."""
    return f"/{len(lab.machines) * CPUS}.0 CPU" in lab.laptop.types("ray exec cluster.yaml 'ray status'")


def keys(lab: Lab, options: str) -> set[str]:
    """The keys of the trials that a sweep with `options` has."""
    return set(
        re.findall(r"^[0-9a-f]{16}\b", lab.laptop.types(f"python sweeps/ib.py --dry-run --all {options}"), re.MULTILINE)
    )


def finished(name: str) -> pd.DataFrame:
    """The finished trials of a sweep, asked for over the network with the login."""
    with suppress(InputError):  # there is no such sweep yet
        runs = load_runs(name, TRACKING)
        if len(runs):
            return runs[runs["status"] == "FINISHED"]
    return pd.DataFrame({"run_id": []})


def check_once(name: str, expected: set[str]) -> pd.DataFrame:
    """The runs of a sweep, which are `expected`, each once."""
    runs = finished(name)
    assert sorted(runs["tags.raybd.key"]) == sorted(expected), (len(runs), len(expected))
    return runs


def hosts(name: str) -> list[str]:
    """Where the finished trials of a sweep ran, by their own records."""
    return [load_record(run, TRACKING).environment["host"] for run in finished(name)["run_id"]]


def commit(lab: Lab) -> str:
    """The commit of the laptop's checkout, with a + since cluster.yaml is filled in."""
    return lab.laptop.types("git describe --always --abbrev=12 --dirty=+ --exclude='*'").strip()


def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for something, for SLOWEST times `seconds`.

    Raises:
        StageError: it did not come true.
    """
    end = time.monotonic() + SLOWEST * seconds
    while not true():
        if time.monotonic() > end:
            raise StageError(f"not within {SLOWEST * seconds:g} s")
        time.sleep(1)


@contextmanager
def in_background(lab: Lab, command: str, name: str) -> Iterator[Path]:
    """`command` at work, and at the end killed; the file with what it says."""
    said = lab.laptop.folder / f"{name}.log"
    process = lab.laptop.begins(command, said)
    try:
        yield said
    except StageError as error:
        raise StageError(f"$ {command}\n{said.read_text(errors='replace')[-3000:]}\n{error}") from error
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def settle(folder: Path, seen: Iterable[Path]) -> None:
    """Ray's launcher keeps its state in /tmp, and ssh asks /etc/passwd where home is: let both be the laptop's."""
    (folder / "tmp").mkdir()
    users = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    homes = [[*user[:5], str(folder / "laptop/home"), user[6]] if user[2] == "0" else user for user in users]
    (folder / "passwd").write_text("".join(":".join(user) + "\n" for user in homes))
    subprocess.run(["mount", "--bind", folder / "passwd", "/etc/passwd"], check=True)
    for path in seen:
        if path.is_relative_to("/tmp"):
            place = folder / "tmp" / path.relative_to("/tmp")
            place.mkdir(parents=True)
            subprocess.run(["mount", "--rbind", path, place], check=True)
    subprocess.run(["mount", "--rbind", folder / "tmp", "/tmp"], check=True)


def main(folder: Path) -> int:
    """Run the stages; 0 if all of them passed."""
    settle(folder, {ROOT, Path(sys.base_prefix)})
    machines.network()
    lab = Lab(folder)
    for count, stage in enumerate(STAGES):
        start = time.monotonic()
        try:
            stage(lab)
        except Exception:  # noqa: BLE001 - whatever it is, it is told, and the machines go
            print(lab.laptop.log.read_text()[-5000:], traceback.format_exc(), sep="\n")
            print(f"{time.monotonic() - start:4.0f} s  {stage.__name__} failed")
            print(f"{count} passed, 1 failed", flush=True)
            return 1
        print(f"{time.monotonic() - start:4.0f} s  {stage.__name__}: {(stage.__doc__ or '').strip()}", flush=True)
    print(f"{len(STAGES)} passed, 0 failed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
