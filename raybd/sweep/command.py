"""What every sweep script does with its options: check, list, run, sum up."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count

from raybd.config import TrialConfig
from raybd.errors import InputError, NoDataError, public
from raybd.records import SweepFolder
from raybd.sweep import driver, estimate
from raybd.sweep.execute import Resources, Setup
from raybd.sweep.options import SweepOptions, read
from raybd.sweep.progress import SweepResult, clock
from raybd.waiting import beating

Summary = Callable[[str, str, Path], tuple[str, list[Path]]]  # (name, tracking URI, folder) -> (text, pictures)
Search = Callable[[Any, driver.Plan], list[TrialConfig]]  # (options, a plan of no trials) -> trials of what it found


def main(
    presets: Mapping[str, SweepOptions],
    summarise: Summary,
    args: Sequence[str] | None = None,
    search: Search | None = None,
) -> int:
    """Run the sweep that `args` (default: the command line) ask for; the exit status.

    `search` comes first, where there is one, and adds trials to the sweep.
    0: every trial has finished; 1: some have not; 2: the options cannot be run; 130: interrupted.
    """
    try:
        return _main(presets, summarise, list(sys.argv[1:] if args is None else args), search)
    except KeyboardInterrupt:  # a second one, or one before any trial: nothing is tidied up any more
        print("\ninterrupted: what had ended is kept, and the same command goes on with the rest", file=sys.stderr)
        return 130


def _main(
    presets: Mapping[str, SweepOptions], summarise: Summary, args: list[str], search: Search | None = None
) -> int:
    try:
        options = read(presets, args)
        configs = options.configs()
        _check_workers(options, configs)
        return _list(options, configs) if options.dry_run else _sweep(options, configs, summarise, search)
    except InputError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2


def _check_workers(options: SweepOptions, configs: Sequence[TrialConfig]) -> None:
    workers = Resources(gpus=options.gpus_per_trial).workers
    if found := dict.fromkeys(problem for config in configs for problem in config.team_problems(workers)):
        raise InputError(found)


def _list(options: SweepOptions, configs: list[TrialConfig]) -> int:
    print(f"all trials: {_shared(configs)}\n")
    try:
        known, data = driver.prepare(configs, options.data_root, lower="all" in options.attacks)
    except NoDataError as error:
        print("\n".join(f"{'-' * 16}  {config.label}" for config in configs))
        print(f"{len(configs)} trials; their keys and times are not known without the data: {error}")
        return 0
    for config in known:
        print(f"{config.key}  {config.label}")
    here = 1 if options.inline else cpu_count()
    total = estimate.seconds(known, data)
    print(
        f"{len(known)} trials, about {clock(total)} of one core, {clock(total / here)} on {here} "
        "(a rough guess from one training step here)"
    )
    return 0


def _shared(configs: Sequence[TrialConfig]) -> str:
    """The settings that all of `configs` have in common."""
    ends = configs[0].seed, configs[-1].seed  # all settings come with every seed: two tell what differs
    params = [config.params for config in configs if config.seed in ends]
    same = {k: v for k, v in params[0].items() if all(k in other and other[k] == v for other in params)}
    return "  ".join(f"{name}={_said(value)}" for name, value in same.items() if value not in ("", None, []))


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _sweep(options: SweepOptions, configs: list[TrialConfig], summarise: Summary, search: Search | None = None) -> int:
    known, data = driver.prepare(configs, options.data_root, lower="all" in options.attacks)
    folder = SweepFolder.of(options.results, options.name)
    with folder.locked():
        if search is not None:
            found = _searched(options, driver.settle(folder, [], data, options.tracking_uri), search)
            more = driver.prepare(found, options.data_root)[0] if found else []
            known = list({config.key: config for config in [*known, *more]}.values())
        return _run_and_sum_up(options, driver.settle(folder, known, data, options.tracking_uri), summarise)


def _searched(options: SweepOptions, plan: driver.Plan, search: Search) -> list[TrialConfig]:
    """The trials that the search adds; while it goes on, the sweep's own run says that its driver lives."""
    _begin(options, plan, None)
    with beating(plan.store.sign_of_life):
        return search(options, plan)


def _begin(options: SweepOptions, plan: driver.Plan, keys: Sequence[str] | None) -> None:
    try:
        plan.store.begin(_kept(options), keys)
    except Exception as error:  # noqa: BLE001 - the trials' own records do not need it
        print(public(f"the sweep's own run cannot be opened: {type(error).__name__}"), file=sys.stderr)


def _run_and_sum_up(options: SweepOptions, plan: driver.Plan, summarise: Summary) -> int:
    print(f"{options.name}: {plan.known} trials are done, {len(plan.todo)} to run", flush=True)
    _begin(options, plan, plan.keys)
    with beating(plan.store.sign_of_life):
        result = run(options, plan)
    _sum_up(options, plan, result, summarise)
    return result.exit_status


def place(options: SweepOptions, plan: driver.Plan) -> tuple[Setup, Resources | None]:
    """Where the options want trials to run: what they share, and what each holds on Ray; None: in this process."""
    if options.inline:
        threads, device, workers = _here(options)
        return Setup(plan.name, plan.folder, plan.store.address, threads, device, workers=workers), None
    resources = Resources(options.cpus_per_trial, options.gpus_per_trial, options.max_concurrent)
    setup, resources, cores = driver.on_ray(plan, resources, options.address, options.stall_seconds)
    return setup, replace(resources, at_once=resources.at_once or max(1, int(cores / resources.cpus)))


def _here(options: SweepOptions) -> tuple[int, str, int]:
    """Threads, device and workers of a trial in this process."""
    gpu = torch.cuda.is_available() and options.gpus_per_trial != 0
    workers = Resources(gpus=options.gpus_per_trial).workers if gpu else 1
    return max(1, int(options.cpus_per_trial)), "cuda" if gpu else "cpu", workers


def run(options: SweepOptions, plan: driver.Plan) -> SweepResult:
    """Run what the plan has left to do, where the options want it."""
    if not plan.todo:
        return SweepResult(plan.name, plan.known, [], 0, 0.0, 1, [])
    if options.inline:
        return driver.run_inline(plan, *_here(options))
    resources = Resources(options.cpus_per_trial, options.gpus_per_trial, options.max_concurrent)
    return driver.run_on_ray(plan, resources, options.address, options.stall_seconds)


def _sum_up(options: SweepOptions, plan: driver.Plan, result: SweepResult, summarise: Summary) -> None:
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
    print(f"\n{_next(plan.name, uri, options.tracking_uri is not None)}")


def _close(options: SweepOptions, plan: driver.Plan, result: SweepResult, text: str, pictures: list[Path]) -> None:
    numbers = {"trials": float(plan.known + len(result.outcomes)), "failed": float(len(result.failures))}
    if result.outcomes:
        numbers |= {"seconds/sweep": result.seconds, "busy": result.busy}
    said = "\n".join(f"{name} = {value}" for name, value in _kept(options).items())
    note = f"```\n{text}\n\n{result.text}\n```\n\nOptions:\n```\n{said}\n```"
    plan.store.end("FINISHED" if result.exit_status == 0 else "FAILED", numbers, note, pictures)


def _kept(options: SweepOptions) -> dict[str, Any]:
    """The options as the store keeps them: without the password of a URI."""
    return {name: public(value) if isinstance(value, str) else value for name, value in asdict(options).items()}


def _next(name: str, uri: str, asked_for: bool) -> str:
    """The commands that a person will want to type now."""
    uri = public(uri)
    look = f"mlflow server --backend-store-uri '{uri}' --port 5000   (in a checkout: make ui)"
    where = f", tracking_uri='{uri}'" if asked_for else ""
    ask = f"from analysis import DefendedRegionMap; print(DefendedRegionMap.from_mlflow('{name}'{where}).axes)"
    return f'Look at the runs:  {uri if uri.startswith("http") else look}\nAsk the map:       python -c "{ask}"'
