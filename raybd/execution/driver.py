"""A sweep: the list of trials, less what is finished, run until nothing is left that another try could mend."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raybd.errors import InputError
from raybd.execution import memory
from raybd.execution.attempt import Outcome, Setup, finished, record_death, run_attempt
from raybd.execution.progress import Progress, SweepResult
from raybd.execution.resources import Resources
from raybd.tracking.sqlite import path_of
from raybd.tracking.store import Store
from raybd.tracking.uploads import restore, send_all
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, FINISHED, SweepFolder, TrialFolder
from raybd.trials.validate import prepare
from raybd.types import Data

if TYPE_CHECKING:
    from raybd.execution.on_ray import Round

TRIES = 2  # at a trial that fails
GIVE_UPS = 3  # of Ray Tune in a row without one more trial ended


@dataclass(frozen=True)
class Plan:
    """A sweep that has been checked: what is done already and what there is to do."""

    name: str
    todo: list[TrialConfig]
    keys: list[str]  # of every trial, done or not
    data: dict[str, Data]
    folder: SweepFolder
    store: Store

    @property
    def known(self) -> int:
        """How many trials were done before."""
        return len(self.keys) - len(self.todo)


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
    known, data = prepare(configs, data_root)
    return settle(SweepFolder.of(results, name), known, data, tracking_uri)


def settle(
    folder: SweepFolder, known: Sequence[TrialConfig], data: dict[str, Data], tracking_uri: str | None = None
) -> Plan:
    """The plan for trials that `prepare` has let pass: without those that the tracking store has finished.

    Raises:
        InputError: the tracking store is not usable.
    """
    name = folder.path.name
    store = Store.open(name, tracking_uri)
    try:
        send_all(folder, store.address)
        done = set(store.finished())
        lacking = {config.key for config in known} - done
        done |= {key for key in lacking if restore(store.address, folder.trial(key))}
    except Exception as error:
        raise InputError(f"the tracking store has gone away: {type(error).__name__}: {error}") from error
    todo = [config for config in known if config.key not in done]
    for config in todo:
        folder.trial(config.key).reopen()  # what it says from now on, it says of this sweep
    return Plan(name, todo, [config.key for config in known], data, folder, store)


def run_inline(plan: Plan, threads: int = 1, device: str = "cpu", workers: int = 1) -> SweepResult:
    """Run the sweep in this process, one trial after another, with the same records."""
    setup = Setup(plan.name, plan.folder, plan.store.address, threads, device, workers=workers)
    start, progress = time.monotonic(), Progress(len(plan.todo))
    outcomes: dict[str, Outcome] = {}
    before, interrupted = torch.get_num_threads(), False
    memory.keep_between_steps()
    try:
        for config in plan.todo:
            outcomes[config.key] = _tried(config, plan, setup, progress)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        torch.set_num_threads(before)
    return _result(plan, outcomes, time.monotonic() - start, threads, float(threads), [], interrupted)


def _tried(config: TrialConfig, plan: Plan, setup: Setup, progress: Progress) -> Outcome:
    progress.started()
    outcome = run_attempt(config, plan.data[config.data], setup)
    for _ in range(1, TRIES):
        if _worth_another_try(outcome):
            outcome = replace(run_attempt(config, plan.data[config.data], setup), earlier=outcome.error)
    progress.ended(outcome.status == FINISHED)
    return outcome


def run_on_ray(
    plan: Plan, resources: Resources, address: str | None = None, stall_seconds: float = 3600.0
) -> SweepResult:
    """Run the sweep on Ray, in rounds: each runs what the last one left or what failed and may do better."""
    from raybd.execution import on_ray

    start = time.monotonic()
    setup, resources, cores = join_ray(plan, resources, address, stall_seconds)
    rounds = _Rounds(plan)
    while rounds.todo and rounds.idle < GIVE_UPS and not rounds.interrupted:
        configs, alone = rounds.next()
        room = replace(resources, at_once=1) if alone else resources
        rounds.take(configs, on_ray.run_round(configs, plan.data, setup, room, Progress(len(configs))), alone)
    for config in plan.todo:
        if config.key in rounds.outcomes and rounds.outcomes[config.key].died:
            record_death(config, setup, rounds.outcomes[config.key].error)
    seconds = time.monotonic() - start
    return _result(plan, rounds.outcomes, seconds, cores, resources.cpus, rounds.trouble, rounds.interrupted)


def join_ray(
    plan: Plan, resources: Resources, address: str | None = None, stall_seconds: float = 3600.0
) -> tuple[Setup, Resources, int]:
    """Join or start Ray for the trials of `plan`: what they share, what each holds, and the CPUs that there are.

    Raises:
        InputError: no node has what a trial holds, a trial cannot use it, or workers elsewhere cannot reach the store.
    """
    from raybd.execution import on_ray  # imported late: who runs inline needs no Ray

    useless = [problem for config in plan.todo for problem in config.team_problems(resources.workers)]
    if found := resources.problems() + list(dict.fromkeys(useless)):
        raise InputError(found)
    cores = on_ray.connect(address, sum(_bytes(data) for data in plan.data.values()))
    if resources.gpus is None:
        resources = replace(resources, gpus=min(1.0, on_ray.gpus()))
    on_ray.check(resources, path_of(plan.store.address.uri) is not None)
    setup = Setup(
        plan.name,
        plan.folder,
        plan.store.address,
        threads=max(1, int(resources.cpus)),
        device="cuda" if resources.gpus else "cpu",
        stall_seconds=stall_seconds,
        workers=resources.workers,
    )
    return setup, resources, cores


class _Rounds:
    """Who is still to run, as rounds of a sweep end.

    Where memory ran out, all trials that ran then are suspects: they wait for the others, and then run one at a time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.todo = plan, plan.todo
        self.outcomes: dict[str, Outcome] = {}
        self.tries: dict[str, int] = {}
        self.trouble: list[str] = []
        self.suspects: frozenset[str] = frozenset()
        self.idle = 0  # rounds in a row from which nothing was learnt
        self.interrupted = False

    def next(self) -> tuple[list[TrialConfig], bool]:
        """The trials of the next round, and whether they run one at a time."""
        free = [config for config in self.todo if config.key not in self.suspects]
        return (free, False) if free else (self.todo, True)

    def take(self, asked: Sequence[TrialConfig], ended: "Round", alone: bool) -> None:
        """What became of the trials that were `asked` for."""
        seen = dict(ended.seen)
        self.interrupted = len(seen) < len(asked) and not ended.trouble  # without one Tune ends early on Ctrl-C only
        if alone:
            seen |= {config.key: _too_large(config) for config in asked if config.key in ended.suspects}
        seen |= self._unreported(asked, seen)
        for key, outcome in seen.items():
            earlier = self.outcomes[key].error if key in self.outcomes else ""
            self.outcomes[key] = replace(outcome, earlier=earlier)
            self.tries[key] = self.tries.get(key, 0) + 1
        self.trouble += [ended.trouble] if ended.trouble else []
        self.idle = 0 if seen or ended.suspects - self.suspects else self.idle + 1
        self.suspects |= ended.suspects
        self.todo = [config for config in self.todo if self._open(config.key)]

    def _unreported(self, asked: Sequence[TrialConfig], seen: dict[str, Outcome]) -> dict[str, Outcome]:
        """Trials that have finished, on this disk or by what the store says, although nobody lived to tell Tune."""
        silent = [c for c in asked if c.key not in seen or seen[c.key].status != FINISHED]
        stored: set[str] = set()
        with suppress(Exception):  # where it is away, the disk alone can tell
            stored = set(self.plan.store.finished()) if silent else stored
        found = {c.key: finished(self.plan.folder.trial(c.key), self.plan.store.address) for c in silent}
        known = {c.key: Outcome(c.key, c.label, FINISHED) for c in silent if c.key in stored}
        return known | {key: outcome for key, outcome in found.items() if outcome}

    def _open(self, key: str) -> bool:
        outcome = self.outcomes.get(key)
        return outcome is None or (_worth_another_try(outcome) and self.tries[key] < TRIES)


def _too_large(config: TrialConfig) -> Outcome:
    said = "memory ran out on its node although no other trial ran"
    return Outcome(config.key, config.label, FAILED, error=said, permanent=True, sent=False, died=True)


def _worth_another_try(outcome: Outcome) -> bool:
    return outcome.status != FINISHED and not outcome.permanent


def _result(
    plan: Plan,
    outcomes: dict[str, Outcome],
    seconds: float,
    cores: int,
    cpus: float,
    trouble: list[str],
    interrupted: bool,
) -> SweepResult:
    left = sum(config.key not in outcomes for config in plan.todo)
    if any(not outcome.sent for outcome in outcomes.values()):
        trouble = trouble + _last_try(plan)
    ended = [replace(o, sent=o.sent or not _waits(plan.folder.trial(key), o, plan)) for key, o in outcomes.items()]
    return SweepResult(plan.name, plan.known, ended, left, seconds, cores, trouble, interrupted, cpus)


def _waits(folder: TrialFolder, outcome: Outcome, plan: Plan) -> bool:
    """Whether an outcome that was not sent still waits on some disk: of a worker that died there may be no record."""
    return not folder.sent(plan.store.address.name)["done"] and not (outcome.died and folder.read() is None)


def _last_try(plan: Plan) -> list[str]:
    try:
        send_all(plan.folder, plan.store.address)
    except Exception as error:  # noqa: BLE001 - the trials are on disk, and the summary says so
        return [f"the tracking store is still away: {type(error).__name__}"]
    return []


def _bytes(data: Data) -> int:
    return data.train.x.numel() + data.test.x.numel()
