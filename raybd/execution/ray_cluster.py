"""The Ray that a sweep runs on: joined or started, and what it has."""

import contextlib
import os
from pathlib import Path
from typing import Any

import ray
from joblib import cpu_count

import raybd
from raybd.errors import InputError
from raybd.execution.resources import Resources
from raybd.execution.worker_environment import worker_variables
from raybd.utils.environment import COMMIT, environment

STORE_BYTES = 1_000_000_000  # shared memory for data sets on a local Ray, and no less than twice the data


def connect(address: str | None, data_bytes: int) -> int:
    """Join the Ray at `address` or one that runs on this machine, else start one as large as the machine; its CPUs."""
    if ray.is_initialized():
        return int(ray.cluster_resources().get("CPU", 1))
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address != "local":
        try:
            # every node runs this very code, and knows its commit
            variables = worker_variables() | {COMMIT: environment()["commit"]}
            package = {"py_modules": [str(Path(raybd.__file__).parent)], "env_vars": variables}
            ray.init(address=address or "auto", runtime_env=package, **quiet)
            return int(ray.cluster_resources().get("CPU", 1))
        except ConnectionError:
            if address or os.environ.get("RAY_ADDRESS"):
                raise
    ray.init(
        address="local",
        num_cpus=cpu_count(),  # fewer than the machine has where a container or a scheduler says so
        include_dashboard=False,
        object_store_memory=max(STORE_BYTES, 2 * data_bytes),
        runtime_env={"env_vars": worker_variables()},
        **quiet,
    )
    _keep_token_private()
    return int(cpu_count())


def _keep_token_private() -> None:
    """Who reads Ray's token may run code as this user, and Ray writes it as readable as any file."""
    with contextlib.suppress(OSError):  # there is none, or not ours to change
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def check_resources(resources: Resources, local_store: bool) -> None:
    """Refuse what the connected Ray can never give: Tune would wait for it without a word.

    Raises:
        InputError: no node has what a trial holds, or workers elsewhere cannot reach a store that is a file here.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
    problems = []
    if resources.workers > 1:
        each = " and ".join(f"{amount:g} {name}" for name, amount in resources.of_worker.items())
        if (room := worker_slots(resources)) < resources.workers:
            problems.append(f"{resources.workers} workers with {each} each do not fit: there is room for {room}")
    elif not any(cpu >= resources.cpus and gpu >= (resources.gpus or 0) for cpu, gpu in sizes):
        there = ", ".join(f"{cpu:g} CPUs and {gpu:g} GPUs" for cpu, gpu in sizes)
        problems.append(
            f"a trial with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs fits no node (there: {there})"
        )
    if local_store and len({node["NodeManagerAddress"] for node in nodes}) > 1:
        problems.append("a tracking store that is a file cannot be reached from other machines: use an MLflow server")
    if problems:
        raise InputError(problems)


def worker_slots(resources: Resources) -> int:
    """How many workers, of trials with several, the connected Ray has room for at once."""
    nodes, wanted = [node["Resources"] for node in ray.nodes() if node["Alive"]], resources.of_worker
    return sum(int(min(node.get(name, 0.0) / amount for name, amount in wanted.items())) for node in nodes)


def gpus() -> float:
    """GPUs of the Ray that is connected."""
    return float(ray.cluster_resources().get("GPU", 0))
