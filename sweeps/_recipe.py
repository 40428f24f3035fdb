"""The search of `raybd resist`: what a recipe is asked, as trials, and what came of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.resist.changes import ChangeSearch
from analysis.resist.edge import Edge, EdgeSearch
from analysis.resist.result import ResistResult
from analysis.resist.trainings import Ask, Asks, Budget, Trainings
from analysis.resist.trainings import Outcome as Ended
from raybd.attacks import describe
from raybd.attacks.poisoning import PoisonSpec
from raybd.command_line.grid import attacks_of
from raybd.command_line.resist_options import ResistOptions
from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.rounds import RoundsProposer
from raybd.scripts import ScriptConfig
from raybd.scripts.config import Knobs
from raybd.scripts.knobs import Knob
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.validate import prepare
from raybd.types import Data


def first_trials(options: ResistOptions, script: ScriptConfig) -> list[TrialConfig]:
    """The clean twin of each attack at seed 0 and the default of the knobs.

    Raises:
        InputError: with everything wrong with the options.
    """
    if found := options.problems():
        raise InputError(found)
    first = TrialConfig(
        data=options.dataset.data,
        resize=options.dataset.resize,
        model=ModelConfig(name="script"),
        poison_rate=0.0,
        script=script,
    )
    return [replace(first, attack=attack) for attack in attacks_of(options.attack)]


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

    def after_first(self, search: Asks) -> Asks:
        """One clean training, and then `search`, unless it failed."""
        yield [self._first]
        if not self.first_failed:
            yield from search

    @property
    def first_failed(self) -> bool:
        """Whether the first clean training failed."""
        return self._first in self.trainings.failures()

    @property
    def _first(self) -> Ask:
        return Ask(next(iter(self.bases)), 0, 0, self.default)

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
            known_open=any(edge.kind == "always" or edge.rate <= min(self._targets()) for edge in known),
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

    edges, changes = list[Edge](), None
    searches = resist.edge_searches()
    stage([resist.after_first(search.steps()) for search in searches])
    if not resist.first_failed:
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
    best = changes.best() if changes else None
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
