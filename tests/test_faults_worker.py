"""What can befall a trial in its worker, on a real Ray: the sweep goes on, and says what happened."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raybd.execution.attempt import run_attempt
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.record import record_death
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.execution.setup import TrialSetup
from raybd.execution.watchdog import watchdog
from raybd.tracking import load_runs
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FINISHED
from raybd.types import Data
from raybd.utils.locks import heartbeat_thread
from tests.processes import exit_status, spawned
from tests.sweeping import run_inline, run_on_ray

pytestmark = pytest.mark.ray

CONFIG = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(width=0.25), poison_rate=0.1)
ONE = Resources(cpus=1, gpus=0)


@pytest.fixture(autouse=True)
def _own_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its workers must know the folder of the flags, which they inherit when it starts."""
    import ray

    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(tmp_path))
    yield
    ray.shutdown()


def own(function: str, seed: int = 0) -> TrialConfig:
    return replace(CONFIG, model=ModelConfig(name=f"tests.misbehaving:{function}"), seed=seed)


def swept(configs: list[TrialConfig], folder: Path, stall_seconds: float = 3600.0) -> tuple[SweepPlan, SweepResult]:
    a = plan_sweep("s", configs, folder / "results", f"sqlite:///{folder}/mlflow.db")
    return a, run_on_ray(a, ONE, "local", stall_seconds)


def keys(a: SweepPlan, *functions: str) -> list[str]:
    return sorted(config.key for config in a.todo if config.model.name.rpartition(":")[2] in functions)


@pytest.mark.long
def test_killed_failing_and_hung_trials_in_one_sweep(tmp_path: Path) -> None:
    """It ends complete, every trial is accounted for once, and the summary says what became of each."""
    import ray

    small = {"include_dashboard": False, "object_store_memory": 100_000_000, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=3, log_to_driver=False, **small)
    a, result = swept([own(name) for name in ("hangs_once", "dies_once", "dies", "raises", "healthy")], tmp_path, 30)

    assert (len(result.outcomes), result.left, result.exit_status) == (5, 0, 1)
    runs = load_runs("s", a.store.address.uri)
    finished = sorted(runs[runs["status"] == "FINISHED"]["tags.raybd.key"])
    assert finished == keys(a, "healthy", "dies_once", "hangs_once")  # each once
    failed = runs[runs["status"] == "FAILED"]
    assert sorted(set(failed["tags.raybd.key"])) == keys(a, "dies", "raises")
    said = {row["params.model.name"].rpartition(":")[2]: row for _, row in failed.iterrows()}
    assert "its worker died" in said["dies"]["tags.raybd.error"]
    assert "planted failure" in said["raises"]["tags.raybd.error"]
    assert int((failed["tags.raybd.key"] == keys(a, "raises")[0]).sum()) == 2
    text = Path(a.store.client.download_artifacts(said["raises"]["run_id"], "traceback.txt")).read_text()
    assert "misbehaving.py" in text
    told = result.text.splitlines()
    assert sum(line.startswith("FAILED") for line in told) == 2
    twice = "\n".join(line for line in told if line.startswith("retried"))
    assert "hangs_once" in twice
    assert "first error: hung: no heartbeat for 30 s" in twice
    assert "dies_once" in twice
    assert "first error: its worker died" in twice


def attempt_watched(config: TrialConfig, data: Data, setup: TrialSetup, hanging: Path) -> None:
    """An attempt under a watchdog of three seconds that is told all is well until there is a file `hanging`."""
    with (
        watchdog(3, setup.folder.trial(config.key).crash_report) as heartbeat,
        heartbeat_thread(lambda: None if hanging.exists() else heartbeat(), every=0.1),
    ):
        run_attempt(config, data, setup, heartbeat)


@pytest.mark.parametrize("place", ["hangs_before_training", "hangs", "hangs_at_a_measure"])
def test_a_hang_is_ended_wherever_it_is(place: str, tmp_path: Path) -> None:
    """In a process of its own, which the watchdog may end; until the hang, a slow machine is no reason to."""
    a = plan_sweep("s", [own(place)], tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    [config], folder = a.todo, a.folder.trial(a.todo[0].key)
    (tmp_path / "begun").touch()
    setup = TrialSetup("s", a.folder, a.store.address, figures="none")
    assert exit_status(attempt_watched, config, a.data["digits"], setup, tmp_path / "hanging") == -signal.SIGKILL
    said = folder.crash_report.read_text()
    assert said.startswith("hung: no heartbeat for 3 s\n")
    assert "tests/misbehaving.py" in said
    record_death(config, setup, said.splitlines()[0])
    runs = load_runs("s", a.store.address.uri)
    assert list(runs["status"]) == ["FAILED"]
    kept = Path(a.store.client.download_artifacts(runs["run_id"][0], "traceback.txt")).read_text()
    assert "tests/misbehaving.py" in kept  # the line at which it hung


def test_an_attempt_that_is_still_at_work_is_waited_for_and_its_trial_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = plan_sweep("s", [own("slow")], tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    [config], setup = a.todo, TrialSetup("s", a.folder, a.store.address, figures="none")
    folder, beats = a.folder.trial(config.key), list[int]()
    first = spawned(run_attempt, config, a.data["digits"], setup)
    while not (folder.path / "history.jsonl").exists():
        time.sleep(0.01)
    monkeypatch.setattr("raybd.execution.attempt.run_checked", lambda *_: pytest.fail("it ran a second time"))
    outcome = run_attempt(config, a.data["digits"], setup, lambda: beats.append(1))
    first.join()
    assert (outcome.status, outcome.uploaded) == (FINISHED, True)
    assert beats  # who waits is not hung
    assert list(load_runs("s", a.store.address.uri)["status"]) == ["FINISHED"]


def test_a_loss_that_is_no_number_is_not_tried_again(tmp_path: Path) -> None:
    a = plan_sweep("s", [own("becomes_nan")], tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    result = run_inline(a)
    assert "FAILED" in result.text
    assert "DivergedError: the training loss is nan in epoch 2 of 3" in result.text
    assert list(load_runs("s", a.store.address.uri)["status"]) == ["FAILED"]


@pytest.mark.long
def test_a_trial_that_exceeds_the_memory_fails_alone(tmp_path: Path) -> None:
    """Ray's memory monitor ends all of fit(), and innocent trials with it: those run again, without the greedy one."""
    import ray

    with Path("/proc/meminfo").open() as file:
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    used = 1 - kilobytes["MemAvailable"] / kilobytes["MemTotal"]
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        logging_level="ERROR",
        log_to_driver=False,
        _system_config={
            "memory_usage_threshold": used + 4e6 / kilobytes["MemTotal"],
            "memory_monitor_refresh_ms": 250,
        },
    )
    a, result = swept([replace(own("slow"), train=TrainConfig(epochs=8)), own("hungry")], tmp_path)
    assert (result.exit_status, result.left) == (1, 0)
    [failure] = result.failures
    assert failure.key == keys(a, "hungry")[0]
    assert "its node ran out of memory although no other trial was running" in result.text
    runs = load_runs("s", a.store.address.uri)
    assert sorted(runs[runs["status"] == "FINISHED"]["tags.raybd.key"]) == keys(a, "slow")
    assert list(runs[runs["status"] == "FAILED"]["tags.raybd.key"]) == keys(a, "hungry")
