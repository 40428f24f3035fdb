"""A trial by several workers: Ray Train's TorchTrainer inside the trial's Tune function, which itself reserves nothing.

Ray Train starts the ranks, on one node where they fit, and reserves what each holds, for all or for none: two such
trials never wait for each other's half. Rank 0 makes the attempt as a trial of one worker is made (record, checkpoint,
upload); the others follow.
"""

import os
import random
import shutil
import time
import traceback
import uuid
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import OutOfMemoryError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from raybd.execution.attempt import NOT_RETRYABLE, finished_on_disk, on_device, run_attempt
from raybd.execution.memory import is_out_of_memory, stay_on_cpu
from raybd.execution.object_store import unpack_data
from raybd.execution.outcome import Outcome
from raybd.execution.record import record_death
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.stop_file import supervised
from raybd.execution.watchdog import watchdog
from raybd.plugins.own import use_names
from raybd.training import Ranks
from raybd.training.data_parallel import lost_ranks
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED
from raybd.trials.run import follow_trial
from raybd.utils.locks import heartbeat_thread

MARKS = (2**24, 2**26)  # 16 to 64 MiB
RANK_TIMEOUT = 24 * 3600  # seconds that a rank waits for another: rank 0's watchdog and Ray detect a hang sooner
GRACE = 10.0  # seconds in which Ray or rank 0 can report why a rank lost the others
RESERVED = tune.PlacementGroupFactory([{"memory": 1}])  # by the Tune function: a byte, since Ray refuses nothing
TRAIN_ENVIRONMENT = {  # read by Ray Train in the process that starts it, and handed on to what it starts
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "300",  # a rank that answers nothing for so long is dead
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy machine imports PyTorch slowly
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a node that is taken away is a dead rank: Tune tries again
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class RankError(Exception):
    """A rank has ended without the others, which Ray Train shall end: its outcome and, where no record has it, its
    traceback; `lost` where it only lost another rank, which has the reason."""

    def __init__(self, outcome: Outcome, trace: str = "", lost: bool = False) -> None:
        super().__init__(outcome, trace, lost)
        self.outcome, self.trace, self.lost = outcome, trace, lost


@dataclass(frozen=True)
class _Work:
    """The arguments of each rank."""

    config: TrialConfig
    data: list[Any]  # one reference to the packed data
    setup: TrialSetup


def new_mark() -> int:
    """Bytes of memory that each rank of one trial reserves, by which its placement group is found again.

    Ray Train gives it no name, and what removes it where the trial's process is killed needs Ray's dashboard.
    """
    return random.SystemRandom().randrange(*MARKS)


def release(mark: int) -> None:
    """Free what is still reserved for the ranks of a trial whose process has died: the next would wait for it."""
    for found in placement_group_table().values():
        if found["state"] != "REMOVED" and any(one.get("memory") == mark for one in found["bundles"].values()):
            group_id = type(PlacementGroup.empty().id).from_hex(found["placement_group_id"])
            remove_placement_group(PlacementGroup(group_id))


def run_on_ranks(
    config: TrialConfig, data: ray.ObjectRef[Any], setup: TrialSetup, resources: Resources, mark: int
) -> Outcome:
    """One attempt at a trial by the ranks of `config.train.workers`; `data` refers to its packed data.

    A rank that fails ends all: its text and traceback are the trial's record. What ranks hold is found by `mark`.
    """
    os.environ.update(TRAIN_ENVIRONMENT)
    release(mark)  # of an attempt whose process was killed
    folder = setup.folder.path / "train"
    name = f"{config.key}-{uuid.uuid4().hex[:6]}"
    trainer = TorchTrainer(
        _run_rank,  # type: ignore[arg-type]  # typed as the older Ray Train's, like the result
        train_loop_config={"work": _Work(config, [data], setup)},
        torch_config=TorchConfig(backend="nccl" if setup.device == "cuda" else "gloo", timeout_s=RANK_TIMEOUT),
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            use_gpu=setup.device == "cuda",
            resources_per_worker=resources.of_worker | {"memory": float(mark)},
            placement_strategy="PACK",
        ),
        run_config=RunConfig(name=name, storage_path=str(folder), failure_config=FailureConfig(max_failures=0)),
    )
    try:
        outcome: Outcome = trainer.fit().return_value  # type: ignore[attr-defined]  # typed as the older Ray Train's
    except WorkerGroupError as error:
        return _failed_outcome(config, setup, error.worker_failures)
    except (TrainingFailedError, RayError) as error:
        return _record_failure(config, setup, _failure(config, f"Ray Train: {error}"), traceback.format_exc())
    finally:
        release(mark)  # where Ray Train's controller has died, nobody else does
        shutil.rmtree(folder / name, ignore_errors=True)
    return outcome


def _run_rank(loop_config: dict[Any, Any]) -> Outcome | None:
    """Ray Train's training function: runs one rank; returns the trial's outcome on rank 0."""
    work: _Work = loop_config["work"]
    use_names(dict(work.setup.own_names))
    if work.setup.device == "cpu":
        stay_on_cpu()
    try:
        if Ranks.of(work.config.train.workers).primary:
            return _attempt(work)
        _follow(work)
    except RankError:
        raise
    except Exception as error:  # noqa: BLE001 - the trial's record gets any exception
        lost, permanent = lost_ranks(error), isinstance(error, NOT_RETRYABLE)
        if lost or permanent:  # another rank has the cause; a permanent error rank 0 raises and records too
            time.sleep(GRACE)
        said, short = f"{type(error).__name__}: {error}", is_out_of_memory(error)
        raise RankError(_failure(work.config, said, permanent, short), traceback.format_exc(), lost) from None
    return None


def _attempt(work: _Work) -> Outcome:
    with supervised(work.setup, work.config.key) as heartbeat:
        outcome = run_attempt(work.config, unpack_data(ray.get(work.data[0])), work.setup, heartbeat)
    if not outcome.finished:
        raise RankError(outcome)  # the others still wait for it
    return outcome


def _follow(work: _Work) -> None:
    """The part of every rank but the first. While one of these waits for rank 0, a thread sends its heartbeats: its
    watchdog sees that it is stopped or held by foreign code, and sooner than rank 0's sees that nothing goes on."""
    with watchdog(work.setup.stall_seconds / 2) as heartbeat, heartbeat_thread(heartbeat, every=1.0):
        _train(work)


def _train(work: _Work) -> None:
    torch.set_num_threads(work.setup.threads)
    if Ranks.of(work.config.train.workers).decide():  # False: another attempt has finished the trial
        data = on_device(work.setup, unpack_data(ray.get(work.data[0])))
        follow_trial(work.config, data, work.setup.folder.path / "shared")


def _failed_outcome(config: TrialConfig, setup: TrialSetup, failures: dict[int, Exception]) -> Outcome:
    """The outcome of an attempt in which the ranks in `failures` failed, by the one that has the cause."""
    if finished := finished_on_disk(setup.folder.trial(config.key), setup):  # before another rank died
        return finished
    known = {rank: error for rank, error in failures.items() if not (isinstance(error, RankError) and error.lost)}
    rank, error = min((known or failures).items())
    who = f"rank {rank} of {config.train.workers}"
    if not isinstance(error, RankError):
        return _dead(config, setup, rank, who, error)
    if not error.trace:  # rank 0 has recorded it
        return error.outcome
    return _record_failure(config, setup, replace(error.outcome, error=f"{who}: {error.outcome.error}"), error.trace)


def _dead(config: TrialConfig, setup: TrialSetup, rank: int, who: str, error: Exception) -> Outcome:
    """The outcome of an attempt whose `rank` has died, of which Ray says `error`."""
    report = setup.folder.trial(config.key).crash_report
    if rank == 0 and report.exists():  # its watchdog ended it, whichever rank it waited for
        hung = report.read_text()
        return _record_failure(config, setup, _failure(config, hung.partition("\n")[0]), hung)
    reason = getattr(error, "health_check_failure", error)
    said = " ".join(str(reason).split()).partition("Some common causes")[0].rpartition("The actor is dead because ")[2]
    outcome = _failure(config, f"{who} died: {said[:300]}", short=isinstance(reason, OutOfMemoryError))
    return _record_failure(config, setup, outcome, str(error))


def _failure(config: TrialConfig, error: str, permanent: bool = False, short: bool = False) -> Outcome:
    ending: dict[str, Any] = {"permanent": permanent, "out_of_memory": short, "uploaded": False, "died": True}
    return Outcome(config.key, config.label, FAILED, error=error, **ending)


def _record_failure(config: TrialConfig, setup: TrialSetup, outcome: Outcome, trace: str) -> Outcome:
    """`outcome` of a failure that no rank could record, and its record."""
    record_death(config, setup, outcome.error, trace)
    return outcome
