"""Trainings that a search has asked for, with what came of them, and the verdict on each poison rate."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.cells import Cell
from analysis.region_map import DefendedRegionMap
from analysis.verdict import Estimate
from raybd.scripts.config import Knobs
from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS, CLEAN_COUNT, SECONDS, TRAIN_SECONDS, TRIGGERED_COUNT

LIMIT = 0.1  # attack success in excess of the clean twins', above which a backdoor takes hold


@dataclass(frozen=True)
class Ask:
    """A training to be run."""

    attack: str
    count: int  # images poisoned; 0: the clean twin
    seed: int
    knobs: Knobs = ()

    @property
    def training(self) -> tuple[object, ...]:
        """What is trained: a clean twin is the same for every attack, and trained once."""
        return (self.attack if self.count else "", self.count, self.seed, self.knobs)


Asks = Iterator[list[Ask]]  # a search: it yields what it needs next, and goes on when all of these have ended


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""  # why it failed

    @property
    def seconds(self) -> float:
        """That the training took, or the whole trial where it has not been measured by itself."""
        return self.metrics.get(TRAIN_SECONDS, self.metrics.get(SECONDS, math.nan))


@dataclass(frozen=True)
class Judged:
    """What is known of a poison rate at a setting of the knobs."""

    count: int
    seeds: int  # finished
    excess: Estimate  # of attack success over the clean twins'
    takes_hold: bool | None  # None: the seeds do not tell
    limit: float = LIMIT

    @property
    def above(self) -> bool:
        """Whether it takes hold, by the mean where the seeds do not tell; False without a seed."""
        return self.takes_hold if self.takes_hold is not None else self.excess.value > self.limit

    @property
    def is_clear(self) -> bool:
        """Whether more seeds would hardly change it: its interval is on one side of the limit, and its mean far."""
        apart = self.excess.low > self.limit or self.excess.high < self.limit
        return apart and abs(self.excess.value - self.limit) > self.limit / 2


@dataclass
class Trainings:
    """All trainings of a recipe by what was asked; `total` is the number of training images."""

    total: int
    limit: float = LIMIT
    known: dict[Ask, Outcome] = field(default_factory=dict)

    def add(self, ask: Ask, outcome: Outcome) -> None:
        """Note what came of a training."""
        self.known[ask] = outcome

    def missing(self, asks: Iterable[Ask]) -> list[Ask]:
        """Those that have not ended yet, each once."""
        return [ask for ask in dict.fromkeys(asks) if ask not in self.known]

    def rate(self, count: float) -> float:
        """The poison rate of a number of images."""
        return count / self.total

    def finished(self, attack: str, count: int, knobs: Knobs) -> dict[int, Outcome]:
        """The outcomes that are no failures, by seed."""
        rows = self.known.items()
        chosen = {a.seed: o for a, o in rows if (a.attack, a.count, a.knobs) == (attack, count, knobs) and not o.error}
        return dict(sorted(chosen.items()))

    def failures(self) -> dict[Ask, str]:
        """Why trainings failed."""
        return {ask: outcome.error for ask, outcome in self.known.items() if outcome.error}

    def judge(self, attack: str, knobs: Knobs) -> dict[int, Judged]:
        """The verdict on every poisoned count, by the rules of the map: excess over the clean twins, 90 % intervals."""
        rows = [
            {
                "attack.name": attack,
                "poison_rate": self.rate(ask.count),
                "seed": ask.seed,
                "clean_accuracy": outcome.metrics[ACCURACY],
                "attack_success": outcome.metrics[ATTACK_SUCCESS],
                "clean_count": outcome.metrics.get(CLEAN_COUNT, math.nan),
                "triggered_count": outcome.metrics.get(TRIGGERED_COUNT, math.nan),
            }
            for ask, outcome in self.known.items()
            if ask.attack == attack and ask.knobs == knobs and not outcome.error
        ]
        if not any(row["poison_rate"] for row in rows):
            return {}
        found = DefendedRegionMap(pd.DataFrame(rows), max_accuracy_loss=1.0, max_attack_success=self.limit)
        cells = [self._judged(cell) for cell in found.cells if cell.poisoned]
        return {one.count: one for one in sorted(cells, key=lambda one: one.count)}

    def _judged(self, cell: Cell) -> Judged:
        holds = {"backdoored": True, "defended": False, "kept_out": False}.get(cell.verdict.status)
        excess = cell.verdict.attack_success_excess
        count = round(float(str(cell.setting["poison_rate"])) * self.total)
        if len(cell.seeds) < 2:  # one seed tells no spread
            holds = None
        return Judged(count, len(cell.seeds), excess, holds, self.limit)


@dataclass
class Budget:
    """The trainings that a search may ask for; what was asked by it before, or has ended already, costs nothing."""

    most: int
    trainings: Trainings
    spent: set[tuple[object, ...]] = field(default_factory=set)

    @property
    def left(self) -> int:
        """How many are left."""
        return self.most - len(self.spent)

    def take(self, asks: Sequence[Ask], free: bool = False) -> list[Ask]:
        """Those of `asks`, in order, that the budget allows; `free`: those that have ended already are not counted."""
        taken = []
        for ask in asks:
            counted = {ask.training} - self.spent if not (free and ask in self.trainings.known) else set()
            if len(counted) <= self.left:
                self.spent |= counted
                taken.append(ask)
        return taken
