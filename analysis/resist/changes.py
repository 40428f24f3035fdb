"""The cheapest change of a training's knobs that holds against all attacks, by searches along lines from the default.

A line goes from the default to one end of one knob (or of two, where no knob alone holds). Steps along it are screened
with SCREEN seeds, clean accuracy before attacks and the strongest of these first: a step that lets one in is too small,
one that loses accuracy too large, and halving finds the smallest that holds, with a margin where one has it. The
candidates, the fewest knobs and the smallest step first, are then verified with all seeds by the rules of the map; one
that fails is moved on towards the line's end and verified again.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from analysis.resist.trainings import Ask, Asks, Budget, Trainings
from analysis.statistics import TAIL
from analysis.verdict import UNKNOWN_DIFFERENCE, Estimate
from raybd.scripts.config import Knobs
from raybd.scripts.knobs import Knob, settings
from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS

# nearly: holds without the margin; open: an attack takes hold; lost: too much accuracy is
State = Literal["holds", "nearly", "open", "lost"]
SCREEN = 2  # seeds of a step at first
CLEAR = 2.0  # times a limit, beyond which the first of them tells alone
HALVINGS = 4  # of a line
MARGIN = 0.5  # of the limit, that the mean excess of a screened step shall have at most
FURTHER = 1.35  # times its step that a candidate takes which was not verified


@dataclass(frozen=True)
class Line:
    """The way from the default to an end: knobs with their farthest places."""

    ends: Mapping[str, float]

    def at(self, knobs: Sequence[Knob], share: float) -> Knobs:
        """The values of all knobs at a share of the way."""
        ways = {knob.name: knob.between(self.ends[knob.name], share) for knob in knobs if knob.name in self.ends}
        return settings(knobs, ways)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting of the knobs that was tried, and what it costs beside the default."""

    knobs: Knobs
    changed: tuple[str, ...]
    size: float  # of the largest change of a knob, in lengths of its range
    verified: bool  # holds against every attack at every target rate, by all seeds, and keeps accuracy
    excess: Estimate  # of the attack and rate with the largest
    worst: str  # which that is
    accuracy_loss: Estimate  # under the default's clean twins
    seconds: float  # of a training, in proportion to the default's; NaN: not known
    seeds: int  # of the attack and rate that has fewest, of those that were tried


@dataclass
class ChangeSearch:
    """The search over knobs; `targets` are the attacks, the strongest first, with the counts to hold against."""

    knobs: Sequence[Knob]
    targets: Sequence[tuple[str, int]]
    trainings: Trainings
    budget: Budget
    seeds: int = 5
    max_accuracy_loss: float = 0.05
    known_open: bool = False  # whether it is known already that the default does not hold
    tried: list[Knobs] = field(default_factory=list)
    verified: list[Knobs] = field(default_factory=list)

    @property
    def default(self) -> Knobs:
        """The default setting."""
        return settings(self.knobs, {})

    def steps(self) -> Asks:
        """What to train next, until a change is verified or the budget is spent."""
        if not self.known_open:
            yield from self._verify(self.default)
            if self.holds(self.default):
                self.verified.append(self.default)
                return
        single = [Line({knob.name: place}) for knob in self.knobs for place in knob.far_places]
        yield from self._search(single)
        if not self.verified and self.budget.left:
            pairs = [Line({**a.ends, **b.ends}) for a, b in combinations(single, 2) if a.ends.keys() != b.ends.keys()]
            yield from self._search(sorted(pairs, key=self._weakness))

    def holds(self, knobs: Knobs) -> bool:
        """Whether a setting surely holds against every target, by the rules of the map, and keeps accuracy."""
        for attack, count in self.targets:
            judged = self.trainings.judge(attack, knobs).get(count)
            if judged is None or judged.takes_hold is not False:
                return False
        return self._keeps(knobs)

    def change(self, knobs: Knobs) -> Change:
        """What is known of a setting."""
        worst, excess = "", UNKNOWN_DIFFERENCE
        for attack, count in self.targets:
            judged = self.trainings.judge(attack, knobs).get(count)
            if judged is not None and not judged.excess.value < excess.value:
                worst, excess = f"{attack} at {self.trainings.rate(count):.3g}", judged.excess
        done = [len(self.trainings.finished(attack, count, knobs)) for attack, count in self.targets]
        seeds = min(filter(None, done), default=0)  # an attack is not tried where a stronger one took hold
        changed = [(knob, value) for knob, (_, value) in zip(self.knobs, knobs, strict=True) if value != knob.default]
        return Change(
            knobs=knobs,
            changed=tuple(knob.name for knob, _ in changed),
            size=max((abs(knob.place(value) - knob.place(knob.default)) for knob, value in changed), default=0.0),
            verified=knobs in self.verified,
            excess=excess,
            worst=worst,
            accuracy_loss=self.loss(knobs),
            seconds=self._seconds(knobs) / self._seconds(self.default),
            seeds=seeds,
        )

    def best(self) -> Change | None:
        """The verified change with the fewest knobs and the smallest step; else the nearest to one.

        That is the change that keeps all attacks out at the least loss of accuracy, or, where none does, that with the
        smallest excess.
        """
        if self.verified:
            return min(map(self.change, self.verified), key=lambda one: (len(one.changed), one.size))
        whole = [one for one in map(self.change, dict.fromkeys(self.tried)) if one.seeds]
        outside = [one for one in whole if one.excess.value <= self.trainings.limit]
        if outside:
            return min(outside, key=lambda one: one.accuracy_loss.value)
        return min(whole, key=lambda one: one.excess.value, default=None)

    def loss(self, knobs: Knobs) -> Estimate:
        """Clean accuracy of the default's clean twins less that of a setting's: seeds in pairs, Student's t, 90 %."""
        own, usual = self._accuracies(knobs), self._accuracies(self.default)
        apart = np.array([usual[seed] - own[seed] for seed in own.keys() & usual.keys()])
        if len(apart) < 2:
            value = float(apart[0]) if len(apart) else math.nan
            return Estimate(value, -1.0, 1.0)
        half = float(stdtrit(len(apart) - 1, 1 - TAIL)) * float(apart.std(ddof=1)) / math.sqrt(len(apart))
        return Estimate(float(apart.mean()), float(apart.mean()) - half, float(apart.mean()) + half)

    def _search(self, lines: Sequence[Line]) -> Asks:
        """Verify the smallest step of the lines on which one holds, the smaller steps first."""
        found: list[tuple[float, float, Line]] = []
        for line in lines:
            if self.budget.left >= self._cost(self.seeds):
                share, nearly = yield from self._smallest(line)
                found += [(share, nearly, line)] if share else []
        for share, nearly, line in sorted(found, key=lambda one: one[0]):
            yield from self._settle(line, share, nearly)
            if self.verified:
                return

    def _settle(self, line: Line, share: float, low: float) -> Asks:
        """Verify a step; where it fails a larger one, or one nearer to `low`, a smaller step that nearly held."""
        before: Knobs = ()
        high = 1.0
        while self.budget.left:
            knobs = line.at(self.knobs, share)
            if knobs != before:
                yield from self._verify(knobs)
            elif high < 1:
                return  # no step lies between
            if self.holds(knobs):
                self.verified.append(knobs)
                return
            before = knobs
            if not self._keeps(knobs):  # a larger step costs more accuracy still
                if not low:
                    return
                high = share
            elif share >= high:
                return
            else:
                low = share
            share = min(1.0, share * FURTHER) if high == 1 else (low + high) / 2

    def _smallest(self, line: Line) -> Generator[list[Ask], None, tuple[float, float]]:
        """The shares of the smallest steps along a line that hold, or nearly do, and keep accuracy; 0: none is found.

        Where no step holds, the one that nearly does stands for it.
        A step that lets an attack in at full accuracy is too small, one that loses accuracy too large. So a line is
        given up at once where its end is too small.
        """
        low, high = 0.0, 1.0
        first = yield from self._screen(line.at(self.knobs, 1.0))
        if first == "open":
            return 0.0, 0.0
        found: dict[State, list[float]] = {"holds": [], "nearly": [], "lost": [], "open": []}
        found[first].append(1.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            knobs = line.at(self.knobs, middle)
            if knobs == line.at(self.knobs, low):
                low = middle
            elif knobs == line.at(self.knobs, high):
                high = middle
            elif self.budget.left < self._cost(self.seeds):
                break
            else:
                state = yield from self._screen(knobs)
                low, high = (middle, high) if state in ("open", "nearly") else (low, middle)
                found[state].append(middle)
        share = min(found["holds"], default=max(found["nearly"], default=0.0))
        return share, max((nearly for nearly in found["nearly"] if nearly < share), default=0.0)

    def _screen(self, knobs: Knobs) -> Generator[list[Ask], None, State]:
        """What SCREEN seeds say of a setting: clean accuracy first, then attack by attack until one takes hold.

        One seed is enough where it lies beyond CLEAR times a limit.
        """
        self.tried.append(knobs)
        excess = -1.0
        for seeds, times in ((1, CLEAR), (SCREEN, 1.0)):
            yield self._more(self.targets[0][0], 0, knobs, seeds)
            if self.loss(knobs).value > times * self.max_accuracy_loss:
                return "lost"
            excess = -1.0
            for attack, count in self.targets:
                yield self._more(attack, count, knobs, seeds)
                excess = max(excess, self._mean_excess(attack, count, knobs))
                if excess > times * self.trainings.limit:
                    return "open"
        return "holds" if excess <= MARGIN * self.trainings.limit else "nearly"

    def _mean_excess(self, attack: str, count: int, knobs: Knobs) -> float:
        """The mean over the poisoned seeds less that over the clean ones; infinite where no training finished."""
        poisoned = self.trainings.finished(attack, count, knobs)
        clean = self.trainings.finished(attack, 0, knobs)
        if not poisoned or not clean:
            return math.inf
        means = [float(np.mean([one.metrics[ATTACK_SUCCESS] for one in part.values()])) for part in (poisoned, clean)]
        return means[0] - means[1]

    def _verify(self, knobs: Knobs) -> Asks:
        """All seeds of a setting, and as many again where these do not tell."""
        self.tried.append(knobs)
        for seeds in (self.seeds, self.seeds + 3):
            yield [ask for attack, count in self.targets for ask in self._more(attack, count, knobs, seeds)]
            judged = [self.trainings.judge(attack, knobs).get(count) for attack, count in self.targets]
            told = not any(one is not None and one.takes_hold is None for one in judged)
            if told or knobs == self.default or not self._keeps(knobs):
                return

    def _keeps(self, knobs: Knobs) -> bool:
        return not self.loss(knobs).value > self.max_accuracy_loss

    def _weakness(self, line: Line) -> float:
        """The excess that the ends of its knobs had alone, the sum over these."""
        alone = [self.change(Line({name: place}).at(self.knobs, 1.0)).excess.value for name, place in line.ends.items()]
        return sum(1.0 if math.isnan(value) else value for value in alone)

    def _cost(self, seeds: int) -> int:
        return seeds * (len(self.targets) + 1)

    def _accuracies(self, knobs: Knobs) -> dict[int, float]:
        """Clean accuracy of the clean twins by seed, whichever attack's."""
        found: dict[int, float] = {}
        for attack, _ in self.targets:
            found |= {seed: one.metrics[ACCURACY] for seed, one in self.trainings.finished(attack, 0, knobs).items()}
        return found

    def _seconds(self, knobs: Knobs) -> float:
        taken = [o.seconds for ask, o in self.trainings.known.items() if ask.knobs == knobs and not o.error]
        known = [seconds for seconds in taken if not math.isnan(seconds)]
        return float(np.median(known)) if known else math.nan

    def _more(self, attack: str, count: int, knobs: Knobs, seeds: int) -> list[Ask]:
        asks = [Ask(attack, part, seed, knobs) for part in dict.fromkeys((0, count)) for seed in range(seeds)]
        return self.trainings.missing(self.budget.take(asks, free=True))
