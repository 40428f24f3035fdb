"""A sweep joins a running cluster of two Ray nodes on this machine, and loses one of them."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.resources import Resources
from raybd.tracking import load_runs
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from tests.sweeping import run_on_ray

pytestmark = pytest.mark.ray

CONFIG = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(name="tests.misbehaving:slow"))


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without room for trials, and two nodes of one CPU."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.extra = [made.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def made(folder: Path, count: int) -> SweepPlan:
    configs = [replace(CONFIG, seed=seed) for seed in range(count)]
    return plan_sweep("c", configs, folder / "results", f"sqlite:///{folder}/mlflow.db")


@pytest.mark.long
def test_a_node_dies_and_every_trial_is_there_once(tmp_path: Path, cluster: Any) -> None:
    a = made(tmp_path, 8)

    def kill_one_node() -> None:
        while not list(a.folder.path.glob("trials/*/trial.json")):
            time.sleep(0.2)
        cluster.remove_node(cluster.extra[1], allow_graceful=False)

    killer = threading.Thread(target=kill_one_node, daemon=True)
    killer.start()
    result = run_on_ray(a, Resources(cpus=1, gpus=0), cluster.address)
    killer.join(10)
    assert not killer.is_alive()
    assert result.exit_status == 0, result.text
    runs = load_runs("c", a.store.address.uri)
    finished = runs[runs["status"] == "FINISHED"]["tags.raybd.key"]
    assert sorted(finished) == sorted(config.key for config in a.todo)
