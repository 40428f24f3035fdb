"""A sweep from its checked options to its summary."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from raybd.command_line.options import SweepOptions
from raybd.errors import public
from raybd.execution import memory
from raybd.execution.executor import Executor
from raybd.execution.plan import SweepPlan, resume
from raybd.execution.proposers import Proposer
from raybd.execution.result import SweepResult
from raybd.execution.sweep import local_executor, ray_executor, run_sweep
from raybd.tracking.client import client_settings
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.validate import prepare
from raybd.utils.locks import heartbeat_thread

Summary = Callable[[str, str, Path], tuple[str, list[Path]]]  # (name, tracking URI, folder) -> (text, pictures)
Run = Callable[[SweepPlan, Proposer], SweepResult]
Search = Callable[[Any, SweepPlan, Run], list[TrialConfig]]  # (options, a plan of no trials, run) -> trials to add


@client_settings()
def sweep(
    options: SweepOptions, configs: Sequence[TrialConfig], summarise: Summary, search: Search | None = None
) -> int:
    """Run what is left of `configs`, after the `search` if there is one, and sum up; the exit status.

    Raises:
        InputError: a trial could not run, or the results folder or the tracking store is not usable.
    """
    if options.execution.inline and _here(options)[1] == "cpu":
        memory.skip_triton_import()
    known, data = prepare(configs, options.dataset.data_root, lower=options.attack.every)
    folder = SweepFolder.of(options.execution.results, options.name)
    with folder.locked():
        if search is not None:
            found = _searched(options, resume(folder, [], data, options.execution.tracking_uri), search)
            more = prepare(found, options.dataset.data_root)[0] if found else []
            known = list({config.key: config for config in [*known, *more]}.values())
        return _run_and_sum_up(options, resume(folder, known, data, options.execution.tracking_uri), summarise)


def _searched(options: SweepOptions, plan: SweepPlan, search: Search) -> list[TrialConfig]:
    """The trials that the search adds; while it goes on, the sweep's own run says that its driver lives.

    Raises:
        KeyboardInterrupt: it was interrupted; run again, it goes on.
    """

    def run(trials: SweepPlan, proposer: Proposer) -> SweepResult:
        result = run_sweep(trials, executor_for(options, trials), proposer)
        if result.interrupted:
            raise KeyboardInterrupt
        return result

    _begin(options, plan, None)
    with heartbeat_thread(plan.store.heartbeat):
        return search(options, plan, run)


def _begin(options: SweepOptions, plan: SweepPlan, keys: Sequence[str] | None) -> None:
    try:
        plan.store.begin(_kept(options), keys)
    except Exception as error:  # noqa: BLE001 - the trials' own records do not need it
        print(public(f"the sweep's own run cannot be opened: {type(error).__name__}"), file=sys.stderr)


def _run_and_sum_up(options: SweepOptions, plan: SweepPlan, summarise: Summary) -> int:
    print(f"{options.name}: {plan.finished_before} trials are done, {len(plan.todo)} to run", flush=True)
    _begin(options, plan, plan.keys)
    with heartbeat_thread(plan.store.heartbeat):
        result = _run(options, plan)
    _sum_up(options, plan, result, summarise)
    return result.exit_status


def _run(options: SweepOptions, plan: SweepPlan) -> SweepResult:
    if not plan.todo:
        return SweepResult(plan.name, plan.finished_before, [], 0, 0.0, 1, [])
    return run_sweep(plan, executor_for(options, plan))


def executor_for(options: SweepOptions, plan: SweepPlan) -> Executor:
    """Where the options want the trials of `plan` to run.

    Raises:
        InputError: there is no such place, or the trials do not fit.
    """
    if options.execution.inline:
        return local_executor(plan, *_here(options))
    where = options.execution
    return ray_executor(plan, where.resources, where.address, where.stall_seconds)


def _here(options: SweepOptions) -> tuple[int, str]:
    """Threads and device of a trial in this process."""
    gpu = torch.cuda.is_available() and options.execution.gpus_per_trial != 0
    return max(1, int(options.execution.cpus_per_trial)), "cuda" if gpu else "cpu"


def _sum_up(options: SweepOptions, plan: SweepPlan, result: SweepResult, summarise: Summary) -> None:
    uri, text = plan.store.address.uri, ""
    pictures: list[Path] = []
    try:
        text, pictures = summarise(plan.name, uri, plan.folder.path)
        print(f"\n{text}")
    except Exception as error:  # noqa: BLE001 - the trials are safe: a summary that fails must not hide them
        print(public(f"no summary: {type(error).__name__}: {error}"), file=sys.stderr)
    try:
        _close(options, plan, result, text, pictures)
    except Exception as error:  # noqa: BLE001 - as above
        print(f"the sweep's own run stays open: {type(error).__name__}", file=sys.stderr)
    print(f"\n{result.text}")
    print(f"\n{_next(plan.name, uri, options.execution.tracking_uri is not None)}")


def _close(options: SweepOptions, plan: SweepPlan, result: SweepResult, text: str, pictures: list[Path]) -> None:
    numbers = {"trials": float(plan.finished_before + len(result.outcomes)), "failed": float(len(result.failures))}
    if result.outcomes:
        numbers |= {"seconds/sweep": result.seconds, "busy": result.busy}
    said = "\n".join(f"{name} = {value}" for name, value in _kept(options).items())
    note = f"```\n{text}\n\n{result.text}\n```\n\nOptions:\n```\n{said}\n```"
    plan.store.end("FINISHED" if result.exit_status == 0 else "FAILED", numbers, note, pictures)


def _kept(options: SweepOptions) -> dict[str, Any]:
    """The options as the store keeps them: without the password of a URI."""
    return {name: public(value) if isinstance(value, str) else value for name, value in options.flat().items()}


def _next(name: str, uri: str, asked_for: bool) -> str:
    """The commands that a person will want to type now."""
    uri = public(uri)
    look = f"mlflow server --backend-store-uri '{uri}' --port 5000   (in a checkout: make ui)"
    where = f", tracking_uri='{uri}'" if asked_for else ""
    ask = f"from analysis import DefendedRegionMap; print(DefendedRegionMap.from_mlflow('{name}'{where}).axes)"
    return f'Look at the runs:  {uri if uri.startswith("http") else look}\nAsk the map:       python -c "{ask}"'
