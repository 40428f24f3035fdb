"""The file that starts Ray: a list of trials to Ray Tune, outcomes back."""

import contextlib
import gc
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from joblib import cpu_count
from ray import tune
from ray.exceptions import OutOfMemoryError

import raybd
from raybd.errors import InputError
from raybd.execution.attempt import Outcome, Setup, run_attempt
from raybd.execution.memory import without_gpu_compiler
from raybd.execution.progress import Progress
from raybd.execution.resources import Resources
from raybd.execution.watchdog import HUNG, watchdog
from raybd.execution.worker_environment import WORKER_ENVIRONMENT
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, FINISHED, SweepFolder
from raybd.types import Data, Images
from raybd.utils.environment import COMMIT, environment

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that died is told in the sweep's own summary
OUT_OF_MEMORY = "a node ran low on memory, and Ray's memory monitor ended trials there"
STORE_BYTES = 1_000_000_000  # shared memory for data sets on a local Ray, and no less than twice the data


def connect(address: str | None, data_bytes: int) -> int:
    """Join the Ray at `address` or one that runs on this machine, else start one as large as the machine; its CPUs."""
    if ray.is_initialized():
        return int(ray.cluster_resources().get("CPU", 1))
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address != "local":
        try:
            # every node runs this very code, and knows its commit
            variables = WORKER_ENVIRONMENT | {COMMIT: environment()["commit"]}
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
        **quiet,
    )
    _keep_token_private()
    return int(cpu_count())


def _keep_token_private() -> None:
    """Who reads Ray's token may run code as this user, and Ray writes it as readable as any file."""
    with contextlib.suppress(OSError):  # there is none, or not ours to change
        (Path.home() / ".ray" / "auth_token").chmod(0o600)


def check(resources: Resources, local_store: bool) -> None:
    """Refuse what the connected Ray can never give: Tune would wait for it without a word.

    Raises:
        InputError: no node has what a trial holds, or workers elsewhere cannot reach a store that is a file here.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
    problems = []
    if not any(cpu >= resources.cpus and gpu >= (resources.gpus or 0) for cpu, gpu in sizes):
        there = ", ".join(f"{cpu:g} CPUs and {gpu:g} GPUs" for cpu, gpu in sizes)
        problems.append(
            f"a trial with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs fits no node (there: {there})"
        )
    if local_store and len({node["NodeManagerAddress"] for node in nodes}) > 1:
        problems.append("a tracking store that is a file cannot be reached from other machines: use an MLflow server")
    if problems:
        raise InputError(problems)


def gpus() -> float:
    """GPUs of the Ray that is connected."""
    return float(ray.cluster_resources().get("GPU", 0))


@dataclass(frozen=True)
class Round:
    """What became of a list of trials that were tried once."""

    seen: dict[str, Outcome]  # by key, of those that ended
    trouble: str = ""  # why Tune gave up, if it did
    suspects: frozenset[str] = frozenset()  # keys of those that ran when it did because memory was short


def run_round(
    configs: Sequence[TrialConfig],
    data: dict[str, Data],
    setup: Setup,
    resources: Resources,
    progress: Progress,
) -> Round:
    """Try every config once.

    A trial that kills its worker is a failed outcome. Tune itself ends on some faults (its memory monitor, a full
    disk): what had ended by then is returned, the rest is the caller's to start again.
    """
    watcher = _Watcher(progress, setup.folder)
    shared = {name: pack(one) for name, one in data.items()}
    trainable = tune.with_resources(
        tune.with_parameters(_trial, shared=shared, setup=setup), {"cpu": resources.cpus, "gpu": resources.gpus or 0.0}
    )
    state = setup.folder.path / "tune"
    tuner = tune.Tuner(
        trainable,
        param_space={"point": tune.grid_search([config.to_dict() for config in configs])},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=resources.at_once,
            trial_name_creator=_key,
            trial_dirname_creator=_key,
        ),
        run_config=tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=str(state),
            callbacks=[watcher],
            verbose=0,
        ),
    )
    error = give_up(tuner.fit)
    shutil.rmtree(state, ignore_errors=True)  # every trial has its own folder: Tune's state is of no more use
    if isinstance(error and error.__cause__, OutOfMemoryError):
        return Round(watcher.seen, OUT_OF_MEMORY, frozenset(watcher.running))
    return Round(watcher.seen, said(error) if error else "")


def give_up(fit: Callable[[], Any]) -> Exception | None:
    """Call `fit` of a Tuner; what Tune gave up with, if it did."""
    try:
        fit()
    except Exception as error:  # noqa: BLE001 - Tune raises what it meets: OutOfMemoryError, EOFError, OSError, ...
        return error
    return None


def said(error: Exception) -> str:
    """A line about a Tune that gave up."""
    return f"Ray Tune gave up: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _trial(point: dict[str, Any], shared: dict[str, dict[str, Any]], setup: Setup) -> None:
    """In a worker: one trial, one report."""
    config = TrialConfig.from_dict(point["point"])
    if setup.device == "cpu":
        without_gpu_compiler()
    with watchdog(setup.stall_seconds, setup.folder.trial(config.key).crash_report) as heartbeat:
        outcome = run_attempt(config, unpack(shared[config.data]), setup, heartbeat)
    if setup.device == "cuda":
        clear_gpu(outcome.error)
    tune.report({name: getattr(outcome, name) for name in Outcome.__dataclass_fields__})


def clear_gpu(error: str) -> None:
    """Leave the GPU to the next trial: give memory back, and end a process whose CUDA context a fault has broken."""
    if "CUDA error" in error:
        os._exit(HUNG)
    gc.collect()
    torch.cuda.empty_cache()


def _key(trial: Any) -> str:
    return TrialConfig.from_dict(trial.config["point"]).key


class _Watcher(tune.Callback):
    """Collects outcomes on the driver as they come: what it has survives a Tune that gives up."""

    def __init__(self, progress: Progress, folder: SweepFolder) -> None:
        self.progress, self.folder = progress, folder
        self.seen: dict[str, Outcome] = {}
        self.running: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.running.add(_key(trial))
        self.progress.started()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        fields = {name: trial.last_result.get(name) for name in Outcome.__dataclass_fields__}
        if fields["key"] is not None:
            self._take(Outcome(**fields))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = TrialConfig.from_dict(trial.config["point"])
        self._take(Outcome(config.key, config.label, FAILED, error=self._why(trial), sent=False, died=True))

    def _why(self, trial: Any) -> str:
        """What a worker that could not report left behind, or what Ray knows of its end."""
        with contextlib.suppress(OSError, IndexError):  # no file, or no word in it where the disk was full
            return self.folder.trial(_key(trial)).crash_report.read_text().splitlines()[0]
        with contextlib.suppress(OSError, IndexError, TypeError):  # or no name of one
            said = Path(trial.error_file).read_text().strip().splitlines()
            return f"its worker died: {said[-1].split('Some common causes')[0].strip()[:300]}"
        return "its worker died"

    def _take(self, outcome: Outcome) -> None:
        self.seen[outcome.key] = outcome
        self.running.discard(outcome.key)
        self.progress.ended(outcome.status == FINISHED)


def pack(data: Data) -> dict[str, Any]:
    """`data` with its tensors as arrays: Ray shares those between processes without a copy."""
    halves = {"train": data.train, "test": data.test}
    arrays = {name: (half.x.numpy(), half.y.numpy()) for name, half in halves.items()}
    return {"data": replace(data, train=_EMPTY, test=_EMPTY), "arrays": arrays}


def unpack(packed: dict[str, Any]) -> Data:
    """The data that `pack` packed."""
    halves = {name: Images(_tensor(x), _tensor(y)) for name, (x, y) in packed["arrays"].items()}
    data: Data = replace(packed["data"], **halves)
    return data


def _tensor(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the array is read-only, and nobody writes to it
        return torch.from_numpy(array)


_EMPTY = Images(torch.empty((0, 1, 1, 1), dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
