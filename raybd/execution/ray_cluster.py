"""The Ray that a sweep runs on: joined or started, and what it has."""

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from joblib import cpu_count

import raybd
from raybd.errors import InputError
from raybd.execution import private_ray
from raybd.execution.own_modules import own_environment, own_variables
from raybd.execution.private_signals import children_block_signals, shut_down_ray
from raybd.execution.ray_choice import RayChoice, choose
from raybd.execution.resources import Resources
from raybd.execution.worker_environment import worker_variables
from raybd.utils.environment import COMMIT, environment
from raybd.utils.signals import kept_handlers

# Ray is imported in each function: what a private one listens on is settled by then.
STORE_BYTES = 1_000_000_000  # shared memory for data sets on a local Ray, and no less than twice the data
QUIET: Mapping[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
POLL_SECONDS = 5.0  # between two looks at what an autoscaler has brought
LEAVE_SECONDS = 8.0  # for ray.shutdown, when Ray has gone away


def connect(where: RayChoice | str | None, data_bytes: int) -> int:
    """Join or start the Ray that `where` (or `choose`, of an address) says; its CPUs.

    A Ray that this process is connected to already is taken as it is.

    Raises:
        InputError: the Ray that is named does not answer, or a new one cannot be started here.
    """
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        choice = where if isinstance(where, RayChoice) else choose(where)
        with kept_handlers():
            if choice.private:
                _start(data_bytes)
            else:
                _join(choice)
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def _join(choice: RayChoice) -> None:
    private_ray.listen_to_others()
    missing = {name: value for name, value in choice.variables.items() if os.environ.get(name) != value}
    if missing and "ray" in sys.modules:
        names = " and ".join(missing)
        raise InputError(
            f"the Ray at {choice.address} was started with {names}: set the same before Ray is imported here"
        )
    os.environ.update(missing)
    import ray

    # every node runs this very code, and knows its commit
    variables = worker_variables() | {COMMIT: environment()["commit"]}
    package = {"py_modules": [str(Path(raybd.__file__).parent)], "env_vars": variables}
    with own_environment() as own:
        package["py_modules"] += own.pop("py_modules", [])
        ray.init(address=choice.address, runtime_env=package | own, **QUIET)


def _start(data_bytes: int) -> None:
    private_ray.listen_on_loopback()
    folder = private_ray.new_folder()
    import ray

    with children_block_signals():
        ray.init(
            address="local",
            num_cpus=cpu_count(),  # fewer than the machine has where a container or a scheduler says so
            include_dashboard=False,
            object_store_memory=max(STORE_BYTES, 2 * data_bytes),
            runtime_env={"env_vars": worker_variables() | own_variables()},
            _temp_dir=str(folder),
            **QUIET,
        )
    _keep_token_private()


def leave_lost_ray(status: int = 1) -> None:
    """Leave a Ray that has gone away; where that does not end in time, this process ends without it, with `status`."""
    leaving = Thread(target=shut_down_ray, daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
    if leaving.is_alive():
        atexit.register(_end_without_ray, status)  # before the end of Ray itself, which would wait for it again


def _end_without_ray(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _keep_token_private() -> None:
    """Who reads Ray's token may run code as this user, and Ray writes it as readable as any file."""
    with contextlib.suppress(OSError):  # there is none, or not ours to change
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def wait_for(resources: Resources, seconds: float) -> None:
    """Ask the autoscaler for what a trial holds, and wait until it is there, at most `seconds`.

    Ray tells nobody which nodes its autoscaler may start: a sweep that names its GPUs can only wait for them.
    """
    if not seconds or not _lacking(resources):
        return
    from ray.autoscaler.sdk import request_resources

    print(f"waiting at most {seconds:g} s for the autoscaler: {_lacking(resources)}", flush=True)
    alone = {"CPU": resources.cpus, "GPU": resources.gpus or 0.0}
    bundles = [resources.of_worker] * resources.workers if resources.workers > 1 else [alone]
    request_resources(bundles=[{name: amount for name, amount in one.items() if amount} for one in bundles])
    ends = time.monotonic() + seconds
    while _lacking(resources) and time.monotonic() < ends:
        time.sleep(min(POLL_SECONDS, seconds))
    request_resources(bundles=[])  # from here on the trials ask themselves


def check_resources(resources: Resources, local_store: bool) -> None:
    """Refuse what the connected Ray can never give: Tune would wait for it without a word.

    Raises:
        InputError: no node has what a trial holds, or workers elsewhere cannot reach a store that is a file here.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    problems = []
    if lacking := _lacking(resources):
        problems.append(f"{lacking}; where an autoscaler starts machines, --wait-for-resources SECONDS waits for them")
    if local_store and len({node["NodeManagerAddress"] for node in nodes}) > 1:
        problems.append("a tracking store that is a file cannot be reached from other machines: use an MLflow server")
    if problems:
        raise InputError(problems)


def _lacking(resources: Resources) -> str:
    """Why no trial with `resources` fits the connected Ray as it is; "" where one does."""
    import ray

    if resources.workers > 1:
        if (room := worker_slots(resources)) >= resources.workers:
            return ""
        each = " and ".join(f"{amount:g} {name}" for name, amount in resources.of_worker.items())
        return f"{resources.workers} workers with {each} each do not fit: there is room for {room}"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    if any(cpu >= resources.cpus and gpu >= (resources.gpus or 0) for cpu, gpu in sizes):
        return ""
    there = ", ".join(f"{cpu:g} CPUs and {gpu:g} GPUs" for cpu, gpu in sizes)
    return f"a trial with {resources.cpus:g} CPUs and {resources.gpus or 0:g} GPUs fits no node (there: {there})"


def worker_slots(resources: Resources) -> int:
    """How many workers, of trials with several, the connected Ray has room for at once."""
    import ray

    nodes, wanted = [node["Resources"] for node in ray.nodes() if node["Alive"]], resources.of_worker
    return sum(int(min(node.get(name, 0.0) / amount for name, amount in wanted.items())) for node in nodes)


def gpus() -> float:
    """GPUs of the Ray that is connected."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))
