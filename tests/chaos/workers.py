"""What befalls trials in their workers, all in one sweep: the table's rows for it."""

import os
from dataclasses import replace
from pathlib import Path

from raybd.execution.plan import plan_sweep
from raybd.execution.resources import Resources
from raybd.tracking import load_runs
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from tests.chaos.sweeps import Verdict
from tests.sweeping import run_on_ray

STALL = 30.0  # seconds
NETWORKS = {
    "worker killed": "dies_once",
    "worker gets SIGTERM, twice": "terminated_twice",
    "worker hangs": "hangs_once",
    "worker holds Python's lock": "holds_the_lock_once",
    "worker stopped": "stops_once",
    "trial raises": "raises_once",
}


def verdicts(folder: Path) -> dict[str, Verdict]:
    """Of the one trial that each fault befalls."""
    import ray

    folder.mkdir(parents=True)
    os.environ["RAYBD_TEST_FLAGS"] = str(folder)
    small = {"include_dashboard": False, "object_store_memory": 100_000_000, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=3, log_to_driver=False, **small)
    plain = TrialConfig(train=TrainConfig(epochs=3), poison_rate=0.1)
    configs = [replace(plain, model=ModelConfig(name=f"tests.misbehaving:{network}")) for network in NETWORKS.values()]
    plan = plan_sweep("workers", configs, folder / "results", f"sqlite:///{folder}/mlflow.db")
    run_on_ray(plan, Resources(cpus=1, gpus=0), "local", STALL)
    ray.shutdown()
    runs = load_runs("workers", plan.store.address.uri)
    finished = runs[runs["status"] == "FINISHED"]["tags.raybd.key"].value_counts().to_dict()
    return {fault: _verdict(finished, config.key) for fault, config in zip(NETWORKS, plan.todo, strict=True)}


def _verdict(finished: dict[str, int], key: str) -> Verdict:
    number = finished.get(key, 0)
    return Verdict(int(number == 1), [key] * (not number), [key] * (number > 1), [])
