"""Runner of a sweep: from parsed options to its summary."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raybd.command_line.early_warning import warning_of
from raybd.command_line.kept_networks import told_of_networks
from raybd.command_line.limits import memory_limit
from raybd.command_line.option_file import FILE, FLAG, write_options
from raybd.command_line.options import SweepOptions
from raybd.command_line.ui import PORT
from raybd.data.residency import GB, describe_place, is_large
from raybd.errors import LostRayError, public
from raybd.execution import memory as process_memory
from raybd.execution.executor import Executor
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, resume
from raybd.execution.proposers import PROPOSERS, Proposer
from raybd.execution.ray_choice import RayChoice, choose
from raybd.execution.result import SweepResult
from raybd.execution.sweep import local_executor, lost_store_text, ray_executor, run_sweep
from raybd.plugins import parse
from raybd.tracking.client import client_settings
from raybd.tracking.store import HEARTBEAT_SECONDS
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.validate import prepare
from raybd.utils.locks import heartbeat_thread
from raybd.utils.signals import SignalError, say
from raybd.utils.summary_folder import SummaryFolder

Summary = Callable[[str, str, SummaryFolder], tuple[str, list[Path]]]  # (name, tracking URI, folder) -> (text, files)
Run = Callable[[SweepPlan, Proposer], SweepResult]
Search = Callable[[Any, SweepPlan, Run], list[TrialConfig]]  # (options, a plan of no trials, run) -> trials to add


@client_settings()
def sweep(
    options: SweepOptions, configs: Sequence[TrialConfig], summarise: Summary, search: Search | None = None
) -> int:
    """Run the `search`, if any, then the unfinished trials of `configs`, and print the summary; the exit status.

    Raises:
        InputError: a trial could not run, or the results folder or the tracking store is not usable.
    """
    if options.execution.inline and _local_resources(options)[1] == "cpu":
        process_memory.skip_triton_import()
    where = _ray_of(options)
    room, memory = options.image_bytes, memory_limit(cluster=where is not None and not where.private)
    known, data = prepare(
        configs, options.dataset.data_root, lower=options.attack.lowers, image_bytes=room, memory=memory
    )
    warning = warning_of(options, known)
    for one in filter(is_large, data.values()):
        print(describe_place(one, room), flush=True)
    folder = SweepFolder.of(options.execution.results, options.name)
    with folder.locked():
        write_options(folder.path / FILE, options.flat(), _repeat(folder))
        failed: list[Outcome] = []
        if search is not None:
            plan = resume(folder, [], data, options.execution.tracking_uri)
            added, failed = _run_search(options, plan, search, where)
            more = prepare(added, options.dataset.data_root, image_bytes=room)[0] if added else []
            known = list({config.key: config for config in [*known, *more]}.values())
        plan = resume(folder, known, data, options.execution.tracking_uri, {outcome.key for outcome in failed})
        plan = replace(plan, warning=warning)
        return _run_and_sum_up(options, plan, summarise, where, failed)


def _ray_of(options: SweepOptions) -> RayChoice | None:
    """The Ray of the sweep, named in the first line of its output where it is joined; None in this process.

    Raises:
        InputError: the Ray that is named does not answer.
    """
    if options.execution.inline:
        return None
    choice = choose(options.execution.address)
    if choice.note:
        print(f"Ray: {choice.note}", flush=True)
    return choice


def _run_search(
    options: SweepOptions, plan: SweepPlan, search: Search, where: RayChoice | None
) -> tuple[list[TrialConfig], list[Outcome]]:
    """The trials that the search adds, and the outcomes of those that failed and would fail again.

    Raises:
        SignalError: Ctrl-C or SIGTERM ended the search; a rerun resumes it.
        LostRayError: its Ray has gone away.
    """

    failed: dict[str, Outcome] = {}

    def run(trials: SweepPlan, proposer: Proposer) -> SweepResult:
        result = run_sweep(trials, executor_for(options, trials, where), proposer)
        if result.interrupted or result.lost:
            print(f"\n{result.text}", flush=True)
        if result.interrupted:
            raise SignalError(result.interrupted)
        if result.lost:
            raise LostRayError(result.errors[-1])
        failed.update({outcome.key: outcome for outcome in result.failures if outcome.permanent})
        return result

    with _parent_run(options, plan, None):
        return search(options, plan, run), list(failed.values())


@contextmanager
def _parent_run(options: SweepOptions, plan: SweepPlan, keys: Sequence[str] | None) -> Iterator[None]:
    """Inside, the sweep's parent run is open and gets the driver's heartbeats; closed where the work ends early."""
    try:
        _begin(options, plan, keys)
        with heartbeat_thread(_heartbeat(plan), HEARTBEAT_SECONDS):
            yield
    except (SignalError, Exception):
        with suppress(Exception):  # a store may raise anything, and the sweep ends all the same
            plan.store.close_runs("KILLED")
        raise


def _heartbeat(plan: SweepPlan) -> Callable[[], None]:
    """The driver's heartbeat; where the store is no longer the sweep's own, it says so, once, and trials go on."""
    told: list[str] = []

    def beat() -> None:
        if not (found := plan.store.lost()):
            plan.store.heartbeat()
        elif not told:
            told.append(found)
            print(f"warning: {lost_store_text(plan, found)}", file=sys.stderr, flush=True)

    return beat


def _begin(options: SweepOptions, plan: SweepPlan, keys: Sequence[str] | None) -> None:
    try:
        plan.store.begin(_public_options(options), keys, plan.varying)
    except Exception as error:  # noqa: BLE001 - trials are recorded without it
        print(public(f"the parent run of the sweep cannot be opened: {type(error).__name__}"), file=sys.stderr)


def _run_and_sum_up(
    options: SweepOptions, plan: SweepPlan, summarise: Summary, where: RayChoice | None, failed: Sequence[Outcome] = ()
) -> int:
    finished = plan.finished_before - len(failed)
    say(f"{options.name}: {finished} trials have finished, {len(plan.todo)} to run")
    if said := told_of_networks(options.execution.keep_models, plan):
        say(said)
    with _parent_run(options, plan, plan.keys):
        result = _run(options, plan, where)
        result = replace(result, outcomes=[*failed, *result.outcomes])
        _sum_up(options, plan, result, summarise)
    return result.exit_status


def _run(options: SweepOptions, plan: SweepPlan, where: RayChoice | None) -> SweepResult:
    if not plan.todo:
        return SweepResult(plan.name, plan.finished_before, [], 0, 0.0, 1, [])
    executor, proposer = executor_for(options, plan, where), options.execution.proposer
    if proposer == "list":
        return run_sweep(plan, executor)
    chooses = parse("proposer", PROPOSERS, proposer)
    chooses.begin(plan.trials)
    return run_sweep(replace(plan, keys=[config.key for config in plan.todo]), executor, chooses)


def executor_for(options: SweepOptions, plan: SweepPlan, where: RayChoice | None) -> Executor:
    """The executor that the options ask for, for the trials of `plan`: on the Ray `where`, or in this process.

    Raises:
        InputError: Ray cannot be reached, or the trials do not fit its nodes.
    """
    execution, given = options.execution, _given_bytes(options)
    plan = replace(plan, figures=execution.figures, figure_formats=execution.figure_formats)
    plan = replace(plan, keep_models=execution.keep_models)
    if where is None:
        return local_executor(plan, *_local_resources(options), execution.stall_seconds, given)
    waits = execution.stall_seconds, execution.wait_for_resources
    return ray_executor(plan, execution.resources, where, waits[0], given, wait_seconds=waits[1])


def _given_bytes(options: SweepOptions) -> float | None:
    """Bytes of images that --data-memory allows a trial; None where it is not given."""
    given = options.dataset.data_memory
    return None if given is None else given * GB


def _local_resources(options: SweepOptions) -> tuple[int, str]:
    """Threads and device of a trial in this process."""
    gpu = options.execution.gpus_per_trial != 0 and torch.cuda.is_available()
    return max(1, int(options.execution.cpus_per_trial)), "cuda" if gpu else "cpu"


def _sum_up(options: SweepOptions, plan: SweepPlan, result: SweepResult, summarise: Summary) -> None:
    """Print the summary and write it to the parent run; where a signal ended the sweep, what counts most first, since
    its sender may not wait."""
    if result.store_lost:
        say(f"\n{result.text}")
        return
    if result.interrupted:
        say(f"\n{result.text}")
        _close(options, plan, result, "", [])
    folder = SummaryFolder(plan.folder.path, options.execution.figure_formats)
    text, pictures = _summary(plan, folder, summarise)
    if not result.interrupted:
        _close(options, plan, result, text, pictures)
        say(f"\n{result.text}")
    say(f"\n{_next_commands(plan, options)}")


def _summary(plan: SweepPlan, folder: SummaryFolder, summarise: Summary) -> tuple[str, list[Path]]:
    """Text and files of the summary, its text printed; none if it fails."""
    try:
        text, pictures = summarise(plan.name, plan.store.address.uri, folder)
        say(f"\n{text}")
    except Exception as error:  # noqa: BLE001 - the trials are recorded, and their results must be printed
        print(public(f"the summary failed: {type(error).__name__}: {error}"), file=sys.stderr)
        return "", []
    return text, pictures


def _close(options: SweepOptions, plan: SweepPlan, result: SweepResult, text: str, pictures: list[Path]) -> None:
    """Close the parent run with the summary; a store that cannot be reached is told of."""
    numbers = {"trials": float(plan.finished_before + len(result.outcomes)), "failed": float(len(result.failures))}
    if result.outcomes:
        numbers |= {"seconds/sweep": result.seconds, "busy": result.busy}
    values = "\n".join(f"{name} = {value}" for name, value in _public_options(options).items())
    note = f"```\n{text}\n\n{result.text}\n```\n\nOptions:\n```\n{values}\n```"
    try:
        status = "FINISHED" if result.exit_status == 0 else "FAILED"
        plan.store.end(status, numbers, note, pictures, findings=_findings(text))
    except Exception as error:  # noqa: BLE001 - as above
        print(f"the parent run of the sweep stays open: {type(error).__name__}", file=sys.stderr)


def _findings(text: str) -> str:
    """The sentences with which a summary begins; "" where it begins otherwise."""
    first = text.partition("\n\n")[0]
    return first if first.startswith("- ") else ""


def _public_options(options: SweepOptions) -> dict[str, Any]:
    """The options for the tracking store, without passwords of URIs."""
    return {name: public(value) if isinstance(value, str) else value for name, value in options.flat().items()}


def _next_commands(plan: SweepPlan, options: SweepOptions) -> str:
    """Commands that look at the results and repeat the sweep; they work as printed, in this folder."""
    uri = public(plan.store.address.uri)
    store = f" --tracking-uri {shlex.quote(uri)}" if options.execution.tracking_uri is not None else ""
    server = uri.startswith("http")
    look = [] if server else [f"Look at the runs:  {_program('raybd')} ui{store}"]
    page = plan.store.link(uri if server else f"http://localhost:{PORT}")
    lines = [*look, f"{'and open' if look else 'The runs'}:{' ' * 10}{page}"]
    lines += [f"Ask the map:       {_program('raybd')} map {shlex.quote(plan.name)} show{store}"]
    return "\n".join([*lines, f"Repeat the sweep:  {_repeat(plan.folder)}"])


def _repeat(folder: SweepFolder) -> str:
    """The command that starts this sweep again, with all its options."""
    return f"{_python()} {shlex.quote(sys.argv[0])} {FLAG} {shlex.quote(str(_near(folder.path / FILE)))}"


def _program(module: str) -> str:
    """How this Python runs a module."""
    return f"{_python()} -m {module}"


def _python() -> str:
    return shlex.quote(str(_near(Path(sys.executable))))


def _near(path: Path) -> Path:
    """`path`, shortened where it lies in this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
