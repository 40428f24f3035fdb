"""How much poison does a training of your own withstand, and which change of its knobs makes it withstand more?

raybd resist --train 'python train.py {data} {out}' --predict 'python test.py {out} {data} {predictions}'

The training is known by its predictions alone. One clean training comes first: where it fails, nothing else runs.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.resist.result import ResistResult
from raybd.command_line import command
from raybd.command_line.options import parse_options
from raybd.command_line.resist_options import ResistOptions, merge_repeated
from raybd.command_line.runner import Run
from raybd.errors import InputError, LostRayError
from raybd.execution.executor import Executor
from raybd.execution.plan import SweepPlan, resume
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.execution.sweep import local_executor, ray_executor, run_sweep
from raybd.scripts.config import FUNCTION
from raybd.scripts.functions import function_hash, function_name
from raybd.tracking.client import client_settings
from raybd.trials.config import SCRIPT_FUNCTION, TrialConfig
from raybd.trials.records import SweepFolder
from sweeps._recipe import Resist, explore, first_trials

FILE = "resist.json"  # what was found, in the sweep's folder
PRESETS = {"quick": ResistOptions()}


def expand(options: ResistOptions) -> list[TrialConfig]:
    """The trial that is known beforehand: the first clean training.

    Raises:
        InputError: with everything wrong with the options.
    """
    if found := options.problems():
        raise InputError(found)
    return first_trials(options, options.script.script(options.dataset.data))[:1]


def search(found: list[ResistResult], options: ResistOptions, plan: SweepPlan, run: Run) -> list[TrialConfig]:
    """The search of the command line; its result is added to `found`."""
    trials = first_trials(options, options.script.script(options.dataset.data))
    result, asked = explore(Resist.of(options, trials), lambda proposer: run(plan, proposer))
    save(result, plan.folder.path)
    found.append(result)
    return asked


def save(result: ResistResult, folder: Path) -> None:
    """Write what was found as JSON."""
    plain: dict[str, Any] = asdict(result)
    (folder / FILE).write_text(json.dumps(plain, indent=1))


def summarise(found: Sequence[ResistResult], name: str, tracking_uri: str, folder: Path) -> tuple[str, list[Path]]:
    """Sentences, the edge of each attack and every rate tried, with their CSV files."""
    text, files = found[-1].text(folder)
    return text, [*files, folder / FILE]


@client_settings()
def resist(
    train: Callable[..., Any] | str,
    predict: str = "",
    *,
    inline: bool = True,
    resources: Resources | None = None,
    **options: Any,
) -> ResistResult:
    """How much poison a training withstands: a Python function, or the two commands of `raybd resist`.

    Args:
        train: `train(images, labels, seed, **knobs)` returns `predict(images)`, which returns a class or one score for
            each class of every image; images are (N, H, W) uint8, or (N, H, W, C) with colours. Or a shell command.
        predict: the shell command that predicts, where `train` is one.
        inline: in this process; else on Ray, to which the function is pickled.
        resources: of a trial on Ray.
        **options: those of `raybd resist` by the names of their flags: data="digits", attacks=("badnets",),
            trainings=40, knob=("weight_decay=1e-4..1:log",), name="resist", results="results".

    Returns:
        The edges and the change of knobs; it shows itself in a notebook.

    Raises:
        InputError: the options, the data or the store are not usable.
    """
    function = None if isinstance(train, str) else train
    command_text = train if isinstance(train, str) else f"{FUNCTION}{function_name(train)}"
    chosen = ResistOptions.of(train=command_text, predict=predict, **_tuples(options))
    script = chosen.script.script(chosen.dataset.data)
    trials = first_trials(chosen, replace(script, layout="npz") if function else script)
    if function:
        trials = [replace(trial, contents=((SCRIPT_FUNCTION, function_hash(function)),)) for trial in trials]
    with SweepFolder.of(chosen.execution.results, chosen.name).locked():
        found = Resist.of(chosen, trials)
        plan = resume(
            SweepFolder.of(chosen.execution.results, chosen.name), [], dict(found.data), chosen.execution.tracking_uri
        )
        plan = replace(plan, figures=chosen.execution.figures)
        executor = _executor(plan, chosen, inline, resources, function)
        result, _ = explore(found, lambda proposer: _finished(run_sweep(plan, executor, proposer)))
        save(result, plan.folder.path)
    return result


def _executor(
    plan: SweepPlan,
    options: ResistOptions,
    inline: bool,
    resources: Resources | None,
    function: Callable[..., Any] | None,
) -> Executor:
    made = local_executor(plan) if inline else ray_executor(plan, resources or Resources(), options.execution.address)
    made.setup = replace(made.setup, function=function)
    return made


def _finished(result: SweepResult) -> SweepResult:
    """The result of a sweep that nothing ended early.

    Raises:
        KeyboardInterrupt: a signal did.
        LostRayError: its Ray has gone away.
    """
    if result.interrupted:
        raise KeyboardInterrupt
    if result.lost:
        raise LostRayError(result.errors[-1])
    return result


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with lists as tuples, as their groups hold them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def dry_run(options: ResistOptions) -> str:
    """How many trainings there are at most, and what is written for each.

    Raises:
        InputError: the options cannot be run.
    """
    resist = Resist.of(options, first_trials(options, options.script.script(options.dataset.data)))
    script = next(iter(resist.bases.values())).script
    assert script is not None
    attacks, ends = len(resist.bases), [f"{name} {low} to {high}" for name, (low, high) in resist.ranges.items()]
    knobs = [f"knobs: {', '.join(map(str, resist.knobs))}; {options.script.knob_trainings} more trainings at most"]
    folder = Path(options.execution.results) / options.name / "trials"
    files = [f"{name}: {path}" for name, path in script.files().items()]
    return "\n".join(
        [
            f"at most {attacks * options.script.trainings} trainings: {attacks} attacks x {options.script.trainings}",
            *(knobs if resist.knobs else []),
            f"images to poison, of {resist.trainings.total}: {'; '.join(ends)}",
            f"each trial writes {folder}/KEY/work-*/: data as {script.layout}, {{out}}, {{predictions}}; it is",
            "deleted when the trial ends; kept in KEY: train.log, predict.log, trial.json, per_sample.npz",
            *(f"{what}: {text}" for what, text in script.commands.items()),
            f"in the trials' keys: both commands, the data's fingerprint and the files {', '.join(files) or 'none'}",
            "how long a training takes cannot be told before one has run",
        ]
    )


def run(args: Sequence[str] | None = None) -> int:
    """The sweep that `args` ask for; the exit status."""
    given, found = merge_repeated(sys.argv[1:] if args is None else args), list[ResistResult]()
    if "--dry-run" in given:
        try:
            options = parse_options(PRESETS, given)
            print(dry_run(options))
            return 0
        except InputError as error:
            print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
            return 2
    return command.main(PRESETS, partial(summarise, found), given, search=partial(search, found), expand=expand)


if __name__ == "__main__":
    sys.exit(run())
