"""Sweeps: run_sweep runs a proposer's trials by an executor; sweep does the same for a list of configs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from joblib import cpu_count

from raybd.data.residency import shared_bytes
from raybd.errors import InputError, public
from raybd.execution.executor import Executor
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.progress import Progress
from raybd.execution.proposers import ListProposer, Proposer
from raybd.execution.queue import TrialQueue
from raybd.execution.ray_choice import RayChoice
from raybd.execution.record import record_death
from raybd.execution.resources import KeepModels, Resources
from raybd.execution.result import SweepResult
from raybd.execution.setup import TrialSetup
from raybd.execution.twin_line import twins_first
from raybd.execution.worker_environment import driver_environment
from raybd.plugins.own import names_in_use
from raybd.tracking.client import client_settings
from raybd.tracking.sqlite import path_of
from raybd.tracking.uploads import upload_pending
from raybd.training.processor import warn_of_slow_bf16
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.twins import awaited_twin


@client_settings()
def run_sweep(plan: SweepPlan, executor: Executor, proposer: Proposer | None = None) -> SweepResult:
    """Run the trials of `proposer` (default: those of `plan` that are to run); the result."""
    start, twin_of = monotonic(), partial(awaited_twin, cache_folder=plan.folder.path / "shared" / "twins")
    source = proposer or ListProposer(twins_first(plan.todo, twin_of))
    before = replace(plan.finished, metrics=source.needs_metrics)
    executor.setup = replace(executor.setup, return_metrics=source.needs_metrics)

    def ended(config: TrialConfig, outcome: Outcome) -> None:
        if outcome.died:
            record_death(config, executor.setup, outcome.error)

    queue = TrialQueue(source, before, ended, twin_of)
    with Progress(queue).shown() as progress:
        ending = executor.run(queue, progress)
    errors, outcomes = list(ending.errors), list(queue.outcomes.values())
    if store_lost := plan.store.lost():
        errors.append(lost_store_text(plan, store_lost))
    elif any(not outcome.uploaded for outcome in outcomes):
        errors += _retry_uploads(plan)
    return SweepResult(
        name=plan.name,
        finished_before=plan.finished_before + queue.skipped,
        outcomes=[replace(o, uploaded=o.uploaded or not _is_pending(plan, o)) for o in outcomes],
        left=queue.left,
        seconds=monotonic() - start,
        cores=executor.cores,
        errors=errors,
        interrupted=ending.interrupted,
        lost=ending.lost,
        store_lost=bool(store_lost),
        cpus=executor.cpus,
    )


def lost_store_text(plan: SweepPlan, found: str) -> str:
    """What a user is told of a store that is no longer the one that the sweep began with."""
    store = f"the tracking store {public(plan.store.address.uri)} {found} while the sweep ran"
    return f"{store}: its trials are kept in {plan.folder.path}; run the same command again to upload them"


def _is_pending(plan: SweepPlan, outcome: Outcome) -> bool:
    """Whether the trial still has to be uploaded; of a worker that died there may be no record to upload."""
    folder = plan.folder.trial(outcome.key)
    return not folder.upload_state(plan.store.address.identity)["done"] and not (outcome.died and folder.read() is None)


def _retry_uploads(plan: SweepPlan) -> list[str]:
    try:
        upload_pending(plan.folder, plan.store.address)
    except Exception as error:  # noqa: BLE001 - the trials are on disk, and the summary reports them
        return [f"the tracking store still cannot be reached: {type(error).__name__}"]
    return []


def local_executor(
    plan: SweepPlan,
    threads: int = 1,
    device: str = "cpu",
    stall_seconds: float = math.inf,
    image_bytes: float | None = None,
) -> Executor:
    """An executor in this process, which is killed where a trial has no heartbeat for `stall_seconds`; `image_bytes` as
    in `TrialSetup`.

    Raises:
        InputError: a trial has several workers.
    """
    if any(config.train.workers > 1 for config in plan.todo):
        raise InputError("a trial by several workers runs on Ray (ray_executor; without --inline), not in this process")

    from raybd.execution.local import LocalExecutor

    warn_of_slow_bf16((config.train for config in plan.todo), device)
    address = plan.store.address
    setup = TrialSetup(
        plan.name,
        plan.folder,
        address,
        threads,
        device,
        stall_seconds,
        image_bytes=image_bytes,
        figures=plan.figures,
        figure_formats=plan.figure_formats,
        keep_models=plan.keep_models,
        warning=plan.warning,
    )
    return LocalExecutor(setup, plan.data)


@driver_environment()
def ray_executor(
    plan: SweepPlan,
    resources: Resources,
    address: RayChoice | str | None = None,
    stall_seconds: float = 3600.0,
    image_bytes: float | None = None,
    wait_seconds: float = 0.0,
) -> Executor:
    """An executor on the Ray at `address`, or on the one that `choose` finds; `image_bytes` as in `TrialSetup`.

    An autoscaler has `wait_seconds` to bring what a trial holds.

    Raises:
        InputError: the Ray does not answer, no node has what a trial holds, a trial cannot use it, or workers elsewhere
            cannot reach the store.
    """
    from raybd.execution import own_modules, ray_cluster  # imported here: runs in this process need no Ray

    if found := resources.problems():
        raise InputError(found)
    cores = ray_cluster.connect(address, sum(shared_bytes(data) for data in plan.data.values()))
    own_modules.check_nodes()
    from raybd.execution import on_ray  # imports Ray, which `connect` has prepared

    resources = replace(resources, workers=max([resources.workers, *(c.train.workers for c in plan.todo)]))
    if resources.gpus is None:
        resources = replace(resources, gpus=min(1.0, ray_cluster.gpus()))
    ray_cluster.wait_for(resources, wait_seconds)
    ray_cluster.check_resources(resources, path_of(plan.store.address.uri) is not None)
    if not resources.gpus and any(config.train.sync_batch_norm for config in plan.todo):
        raise InputError("sync_batch_norm needs GPUs: PyTorch's SyncBatchNorm refuses a CPU")
    setup = TrialSetup(
        plan.name,
        plan.folder,
        plan.store.address,
        threads=max(1, int(resources.cpus)),
        device="cuda" if resources.gpus else "cpu",
        stall_seconds=stall_seconds,
        image_bytes=image_bytes,
        figures=plan.figures,
        figure_formats=plan.figure_formats,
        keep_models=plan.keep_models,
        warning=plan.warning,
        own_names=tuple(names_in_use().items()),
    )
    warn_of_slow_bf16((config.train for config in plan.todo), setup.device)
    fitting = max(1, int(cores / resources.cpus))
    if resources.workers > 1:
        fitting = ray_cluster.worker_slots(resources) // resources.workers
    at_once = min(resources.at_once or fitting, fitting)
    on_node = max(1, min(at_once, int(cpu_count() / resources.cpus)))
    setup = replace(setup, share=min(1.0, resources.gpus) if resources.gpus else 1 / on_node)
    return on_ray.RayExecutor(setup, plan.data, replace(resources, at_once=at_once), cores)


@client_settings()
def sweep(
    configs: Sequence[TrialConfig],
    name: str = "sweep",
    *,
    inline: bool = True,
    resources: Resources | None = None,
    results: str | Path = "results",
    tracking_uri: str | None = None,
    data_root: str | Path | None = None,
    address: str | None = None,
    keep_models: KeepModels = "none",
) -> SweepResult:
    """Run the trials `configs` as the sweep `name`: in this process, or on Ray where `inline` is False.

    What the tracking store has finished is not run again; the records are those of every sweep. `keep_models`: the
    networks that are kept with them, of each trial the last, or all at its probes (`raybd model`).

    Raises:
        InputError: a config, the data, the results folder, the tracking store or the resources are not usable.
    """
    with SweepFolder.of(results, name).locked():  # before planning, which uploads and clears records
        plan = replace(plan_sweep(name, configs, results, tracking_uri, data_root), keep_models=keep_models)
        executor = local_executor(plan) if inline else ray_executor(plan, resources or Resources(), address)
        return run_sweep(plan, executor)
