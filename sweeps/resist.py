"""How much poison does a training of your own withstand, and which change of its knobs makes it withstand more?

raybd resist --data folder:D --train 'python train.py {data} {out}' --predict 'python test.py {out} {data} {predictions}'

The training is known by its predictions alone. One clean training comes first: where it fails, nothing else runs.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analysis.resist.changes import Change, ChangeSearch
from analysis.resist.edge import Edge, EdgeSearch
from analysis.resist.result import ResistResult
from analysis.resist.trainings import Ask, Asks, Budget, Trainings
from analysis.resist.trainings import Outcome as Ended
from raybd.attacks import describe
from raybd.attacks.poisoning import PoisonSpec
from raybd.command_line import command
from raybd.command_line.grid import attacks_of
from raybd.command_line.options import parse_options
from raybd.command_line.resist_options import ResistOptions, merge_repeated
from raybd.command_line.runner import Run
from raybd.errors import InputError, LostRayError
from raybd.execution.executor import Executor
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, resume
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.execution.rounds import RoundsProposer
from raybd.execution.sweep import local_executor, ray_executor, run_sweep
from raybd.scripts import ScriptConfig
from raybd.scripts.config import FUNCTION, Knobs
from raybd.scripts.functions import function_hash, function_name
from raybd.scripts.knobs import Knob
from raybd.tracking.client import client_settings
from raybd.trials.config import SCRIPT_FUNCTION, ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.validate import prepare
from raybd.types import Data

FILE = "resist.json"  # what was found, in the sweep's folder
PRESETS = {"quick": ResistOptions()}


def first_trials(options: ResistOptions, script: ScriptConfig) -> list[TrialConfig]:
    """The clean twin of each attack at seed 0 and the default of the knobs.

    Raises:
        InputError: with everything wrong with the options.
    """
    if found := options.problems():
        raise InputError(found)
    common = {"data": options.dataset.data, "resize": options.dataset.resize, "model": ModelConfig(name="script")}
    return [
        TrialConfig(**common, attack=attack, poison_rate=0.0, script=script) for attack in attacks_of(options.attack)
    ]


def expand(options: ResistOptions) -> list[TrialConfig]:
    """The trial that is known beforehand: the first clean training.

    Raises:
        InputError: with everything wrong with the options.
    """
    if found := options.problems():
        raise InputError(found)
    return first_trials(options, options.script.script(options.dataset.data))[:1]


@dataclass(frozen=True)
class Resist:
    """The trials of a recipe: one for each thing asked, and what came of them."""

    options: ResistOptions
    knobs: Sequence[Knob]
    bases: Mapping[str, TrialConfig]  # by attack, as people write it
    ranges: Mapping[str, tuple[int, int]]  # fewest and most images that each attack may poison
    trainings: Trainings
    data: Mapping[str, Data]

    @classmethod
    def of(cls, options: ResistOptions, trials: Sequence[TrialConfig]) -> "Resist":
        """The search that the options ask for, from the first trial of each attack.

        Raises:
            InputError: the data, or the poison of an attack, cannot be had.
        """
        known, data = prepare(trials, options.dataset.data_root, image_bytes=options.image_bytes)
        (one,) = data.values()
        rates, total = options.attack.poison_rates, len(one.train)
        ranges = {}
        for trial in known:
            most = PoisonSpec(trial.attack, max(rates), 0).largest(one.train.y)
            high = min(round(max(rates) * total), round(most * total))
            low = max(round(min(rates) * total), len(trial.attack.members()))
            if low >= high:
                raise InputError(f"{describe(trial.attack)}: no two poison rates from {min(rates):g} to {max(rates):g}")
            ranges[describe(trial.attack)] = low, high
        bases = {describe(trial.attack): trial for trial in known}
        knobs = options.script.knobs()
        return cls(options, knobs, bases, ranges, Trainings(total, options.script.max_attack_success), data)

    def config(self, ask: Ask) -> TrialConfig:
        """The trial of what is asked."""
        base = self.bases[ask.attack]
        assert base.script is not None
        script = replace(base.script, knobs=ask.knobs)
        return replace(base, poison_rate=self.trainings.rate(ask.count), seed=ask.seed, script=script)

    def first(self) -> Asks:
        """One clean training."""
        yield [Ask(next(iter(self.bases)), 0, 0, self.default)]

    @property
    def default(self) -> Knobs:
        """The knobs as they stand."""
        script = next(iter(self.bases.values())).script
        return script.knobs if script else ()

    def edge_searches(self) -> list[EdgeSearch]:
        """One for each attack."""
        script = self.options.script
        more = {"budget": script.trainings, "seeds": script.seeds}
        return [EdgeSearch(n, ends, self.trainings, knobs=self.default, **more) for n, ends in self.ranges.items()]

    def change_search(self, edges: Sequence[Edge]) -> ChangeSearch | None:
        """The search of knobs against the attacks at the target rates; None without knobs or with nothing known."""
        known = [edge for edge in edges if edge.kind != "unknown"]
        if not self.knobs or not known:
            return None
        strongest = sorted(known, key=lambda edge: {"always": 0.0, "never": 1.0}.get(edge.kind, edge.rate))
        targets = [(edge.attack, self._target(edge.attack, rate)) for edge in strongest for rate in self._targets()]
        script = self.options.script
        return ChangeSearch(
            self.knobs,
            list(dict.fromkeys(targets)),
            self.trainings,
            Budget(script.knob_trainings, self.trainings),
            script.seeds,
            script.max_accuracy_loss,
            surely_open=any(edge.kind == "always" or edge.high <= min(self._targets()) for edge in known),
        )

    def _targets(self) -> list[float]:
        return sorted(set(self.options.script.target_rates), reverse=True)

    def _target(self, attack: str, rate: float) -> int:
        return min(max(1, round(rate * self.trainings.total)), self.ranges[attack][1])


def explore(resist: Resist, run: Callable[[RoundsProposer], object]) -> tuple[ResistResult, list[TrialConfig]]:
    """The edges of all attacks side by side, then the knobs; what was found and every trial that it asked for."""
    labels: dict[str, str] = {}
    asked: dict[str, TrialConfig] = {}

    def stage(searches: Sequence[Asks]) -> None:
        proposer = _proposer(resist, searches, labels)
        run(proposer)
        asked.update(proposer.asked)

    stage([resist.first()])
    edges, changes = list[Edge](), None
    if not labels:
        searches = resist.edge_searches()
        stage([search.steps() for search in searches])
        edges = [search.result() for search in searches]
        changes = resist.change_search(edges)
        if changes:
            stage([changes.steps()])
    return _result(resist, edges, changes, labels), list(asked.values())


def _proposer(resist: Resist, searches: Sequence[Asks], labels: dict[str, str]) -> RoundsProposer:
    asks: dict[str, Ask] = {}

    def trials(search: Asks) -> Iterator[list[TrialConfig]]:
        for round_ in search:
            missing = resist.trainings.missing(round_)
            configs = {resist.config(ask).key: ask for ask in missing}
            asks.update(configs)
            yield [resist.config(ask) for ask in missing]

    def ended(config: TrialConfig, outcome: Outcome) -> None:
        error = "" if outcome.finished else outcome.error or "it ended without a result"
        resist.trainings.add(asks[config.key], Ended(outcome.metrics, error))
        if error:
            labels[config.label] = error

    return RoundsProposer([trials(search) for search in searches], ended)


def _result(
    resist: Resist, edges: Sequence[Edge], changes: ChangeSearch | None, labels: Mapping[str, str]
) -> ResistResult:
    best: Change | None = changes.best() if changes else None
    script = resist.options.script
    return ResistResult(
        edges=edges,
        change=best,
        targets=sorted(script.target_rates),
        knobs_tried=len(set(changes.tried) - {changes.default}) if changes else 0,
        failures=dict(labels),
        trainings=len({ask.training for ask in resist.trainings.known}),
        limit=script.max_attack_success,
        max_accuracy_loss=script.max_accuracy_loss,
    )


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
        **options: those of `raybd resist` by the names of their flags: data="digits", attacks=("badnets",), trainings=40,
            knob=("weight_decay=1e-4..1:log",), name="resist", results="results".

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
            f"each trial writes {folder}/KEY/work-*/: poisoned data as {script.layout}, {{out}}, {{predictions}}; deleted",
            "when it ends; kept there: train.log, predict.log, trial.json, per_sample.npz",
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
