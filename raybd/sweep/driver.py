"""A sweep: the list of trials, less what is finished, run until nothing is left that another try could mend."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from raybd.config import TrialConfig
from raybd.data import load
from raybd.errors import InputError
from raybd.records import FINISHED, SweepFolder
from raybd.sweep.execute import Outcome, Resources, Setup, execute, record_death
from raybd.sweep.progress import Progress, SweepResult
from raybd.tracking import Address, Store, send
from raybd.trial import check_trial
from raybd.types import Data

TRIES = 2  # at a trial that fails
GIVE_UPS = 3  # of Ray Tune in a row without one more trial ended


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked: what is done already and what there is to do."""

    name: str
    todo: list[TrialConfig]
    known: int
    data: dict[str, Data]
    folder: SweepFolder
    store: Store


def prepare(configs: Sequence[TrialConfig], data_root: str | Path | None = None) -> tuple[list[TrialConfig], dict[str, Data]]:
    """The configs with the fingerprint of their data, each once, and the data by name.

    Raises:
        InputError: with everything that is wrong with any of them; no trial could start.
    """
    problems = [problem for config in configs for problem in config.problems()]
    if problems or not configs:
        raise InputError(list(dict.fromkeys(problems)) or "the sweep has no trials")
    data = {name: load(name, data_root) for name in dict.fromkeys(config.data for config in configs)}
    known = [replace(config, fingerprint=data[config.data].fingerprint) for config in configs]
    for config in known:
        try:
            check_trial(config, data[config.data])
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return list({config.key: config for config in known}.values()), data


def plan(
    name: str,
    configs: Sequence[TrialConfig],
    results: str | Path = "results",
    tracking_uri: str | None = None,
    data_root: str | Path | None = None,
) -> Plan:
    """Check everything that can be wrong before any work, and leave out what is finished.

    Raises:
        InputError: a config, the data, the results folder or the tracking store is not usable.
    """
    folder = SweepFolder.of(results, name)
    known, data = prepare(configs, data_root)
    store = Store.open(name, tracking_uri)
    resend(folder, store.address)
    finished = store.finished()
    todo = [config for config in known if config.key not in finished]
    return Plan(name, todo, len(known) - len(todo), data, folder, store)


def resend(folder: SweepFolder, address: Address) -> int:
    """Bring every ended trial that waits on disk into the store; how many there were."""
    count = 0
    for trial in folder.unsent():
        if record := trial.read():
            send(address, trial, record)
            count += 1
    return count


def run_inline(plan: Plan, threads: int = 1, device: str = "cpu") -> SweepResult:
    """Run the sweep in this process, one trial after another, with the same records."""
    setup = Setup(plan.name, plan.folder, plan.store.address, threads, device)
    start, progress = time.monotonic(), Progress(len(plan.todo))
    outcomes: dict[str, Outcome] = {}
    before, interrupted = torch.get_num_threads(), False
    try:
        for config in plan.todo:
            outcomes[config.key] = _tried(config, plan, setup, progress)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        torch.set_num_threads(before)
    return _result(plan, outcomes, time.monotonic() - start, 1, [], interrupted)


def _tried(config: TrialConfig, plan: Plan, setup: Setup, progress: Progress) -> Outcome:
    progress.started()
    for _ in range(TRIES):
        outcome = execute(config, plan.data[config.data], setup)
        if not _worth_another_try(outcome):
            break
    progress.ended(outcome.status == FINISHED)
    return outcome


def run_on_ray(
    plan: Plan, resources: Resources, address: str | None = None, stall_seconds: float = 3600.0
) -> SweepResult:
    """Run the sweep on Ray, in rounds: each runs what the last one left or what failed and may do better."""
    from raybd.sweep import cluster  # imported late: who runs inline needs no Ray

    start = time.monotonic()
    cores = cluster.connect(address, sum(_bytes(data) for data in plan.data.values()))
    if resources.gpus is None:
        resources = replace(resources, gpus=min(1.0, cluster.gpus()))
    setup = Setup(
        plan.name,
        plan.folder,
        plan.store.address,
        threads=max(1, int(resources.cpus)),
        device="cuda" if resources.gpus else "cpu",
        stall_seconds=stall_seconds,
    )
    outcomes: dict[str, Outcome] = {}
    tries: dict[str, int] = {}
    trouble: list[str] = []
    todo, idle, interrupted = plan.todo, 0, False
    while todo and idle < GIVE_UPS and not interrupted:
        progress = Progress(len(todo))
        seen, gave_up = cluster.run_round(todo, plan.data, setup, resources, progress)
        outcomes |= seen
        trouble += [gave_up] if gave_up else []
        interrupted = len(seen) < len(todo) and not gave_up  # Tune ends early without an error on Ctrl-C only
        idle = 0 if seen else idle + 1
        for key in seen:
            tries[key] = tries.get(key, 0) + 1
        todo = [c for c in todo if _open(outcomes.get(c.key), tries.get(c.key, 0))]
    for config in plan.todo:
        if config.key in outcomes and outcomes[config.key].status != FINISHED:
            record_death(config, setup, outcomes[config.key].error)
    return _result(plan, outcomes, time.monotonic() - start, cores, trouble, interrupted)


def _open(outcome: Outcome | None, tries: int) -> bool:
    return outcome is None or (_worth_another_try(outcome) and tries < TRIES)


def _worth_another_try(outcome: Outcome) -> bool:
    return outcome.status != FINISHED and not outcome.hopeless


def _result(
    plan: Plan, outcomes: dict[str, Outcome], seconds: float, cores: int, trouble: list[str], interrupted: bool
) -> SweepResult:
    left = sum(config.key not in outcomes for config in plan.todo)
    if any(not outcome.sent for outcome in outcomes.values()):
        trouble = trouble + _last_try(plan)
    ended = [replace(outcome, sent=plan.folder.trial(key).sent()["done"]) for key, outcome in outcomes.items()]
    return SweepResult(plan.name, plan.known, ended, left, seconds, cores, trouble, interrupted)


def _last_try(plan: Plan) -> list[str]:
    try:
        resend(plan.folder, plan.store.address)
    except Exception as error:  # noqa: BLE001 - the trials are on disk, and the summary says so
        return [f"the tracking store is still away: {type(error).__name__}"]
    return []


def _bytes(data: Data) -> int:
    return data.train.x.numel() + data.test.x.numel()
