"""The edge of an attack: the largest poison rate at which it does not take hold, by bisection on the log rate.

The ends of the range come first, with the clean twins of the same seeds, then the middle (in the log) of what lies
between the largest rate that does not take hold and the smallest that does. A rate has FIRST seeds, up to `seeds`
where these do not tell clearly. Once two neighbours are near enough, what is left of the budget goes to further seeds
at both; where these move the crossing elsewhere, the search follows it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analysis.resist.curve import Curve
from analysis.resist.trainings import Ask, Asks, Budget, Judged, Trainings
from raybd.scripts.config import Knobs

FIRST = 3  # seeds of a rate at first
RESOLUTION = 1.2  # ratio of two neighbouring rates below which none is measured between them
MOST = 2  # times `seeds` that a rate beside the edge may have
Kind = Literal["edge", "always", "never", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """How much poison of one attack a training withstands.

    Attributes:
        kind: edge; always or never: it takes hold at every rate tried, or at none; unknown: trainings failed.
        rate: where the mean excess crosses the limit, by a rising line through the means; NaN unless kind is edge.
        low: end of its 90 % interval over seeds, which holds the nearest rate surely below the edge; 0: none is.
        high: likewise above it; infinite: none is.
        judged: what was measured, by poisoned images.
    """

    attack: str
    kind: Kind
    rate: float
    low: float
    high: float
    lowest: float  # rate tried
    highest: float
    trainings: int
    judged: Mapping[int, Judged]
    note: str = ""


class EdgeSearch:
    """The search for the edge of one attack at the default knobs."""

    def __init__(
        self,
        attack: str,
        counts: tuple[int, int],
        trainings: Trainings,
        *,
        budget: int,
        seeds: int = 5,
        knobs: Knobs = (),
    ) -> None:
        """`counts`: the fewest and the most images to poison."""
        self.attack, self.trainings, self.seeds, self.knobs = attack, trainings, seeds, knobs
        self.lowest, self.highest = counts
        self.budget = Budget(budget, trainings)
        self.note = ""

    def steps(self) -> Asks:
        """What to train next, until the edge is as narrow as can be or the budget is spent."""
        yield self._more(0, self.seeds)
        yield self._more(self.highest, FIRST) + self._more(self.lowest, FIRST)
        for end in (self.highest, self.lowest):
            yield from self._decide(end)
        if {self.highest, self.lowest} <= self.judged.keys():
            yield from self._narrow()
        else:
            self.note = "the trainings at the ends of the range failed"

    @property
    def judged(self) -> dict[int, Judged]:
        """What is known of every rate."""
        return self.trainings.judge(self.attack, self.knobs)

    @property
    def curve(self) -> Curve:
        """The excess of every rate, seed by seed."""
        return Curve.of(self.trainings, self.attack, self.knobs)

    def result(self) -> Edge:
        """The edge by what has been measured."""
        judged, found = self.judged, self._edge()
        kind: Kind = "edge"
        if self.note or not judged:
            kind = "unknown"
        elif found is None:
            kind = "always" if judged[min(judged)].above else "never"
        rate, low, high = (self.trainings.rate(count) for count in found or (math.nan,) * 3)
        return Edge(
            attack=self.attack,
            kind=kind,
            rate=rate,
            low=low,
            high=high,
            lowest=self.trainings.rate(min(judged, default=self.lowest)),
            highest=self.trainings.rate(max(judged, default=self.highest)),
            trainings=len(self.budget.spent),
            judged=judged,
            note=self.note,
        )

    def _edge(self) -> tuple[float, float, float] | None:
        """The crossing; its interval holds the nearest rates on either side on which the verdict is sure."""
        judged, found = self.judged, self.curve.edge()
        if found is None:
            return None
        rate, low, high = found
        below = [count for count, one in judged.items() if one.takes_hold is False and count <= rate]
        above = [count for count, one in judged.items() if one.takes_hold is True and count >= rate]
        return rate, min(low, max(below, default=0.0)), max(high, min(above, default=math.inf))

    def _narrow(self) -> Asks:
        """The middle of what lies about the crossing; where that is narrow, more seeds on either side."""
        while self.budget.left and (bracket := self.curve.bracket()):
            low, high = bracket
            if high > low + 1 and high / low > RESOLUTION:
                middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
                yield self._more(middle, FIRST)
                yield from self._decide(middle)
                if middle not in self.judged:
                    self.note = f"the trainings at a poison rate of {self.trainings.rate(middle):.3g} failed"
                    return
            elif asks := self._next_seeds([low, high]):
                yield asks
            else:
                return

    def _decide(self, count: int) -> Asks:
        """The other seeds of a rate where the first do not tell clearly."""
        known = self.judged.get(count)
        if known is not None and not known.is_clear:
            yield self._more(count, self.seeds)

    def _next_seeds(self, counts: list[int]) -> list[Ask]:
        """One more seed of those of `counts` that have fewest, and of their clean twin."""
        seeds = {count: self.asked(count) for count in counts}
        fewest = min(seeds.values())
        if fewest >= MOST * self.seeds:
            return []
        chosen = [count for count in counts if seeds[count] == fewest]
        return [*self._more(0, fewest + 1), *(ask for count in chosen for ask in self._more(count, fewest + 1))]

    def asked(self, count: int) -> int:
        """How many seeds of a rate have ended, finished or failed."""
        return sum((a.attack, a.count, a.knobs) == (self.attack, count, self.knobs) for a in self.trainings.known)

    def _more(self, count: int, seeds: int) -> list[Ask]:
        """A rate's first `seeds` seeds, as far as they have not been asked for and the budget goes."""
        asks = [Ask(self.attack, count, seed, self.knobs) for seed in range(seeds)]
        return self.trainings.missing(self.budget.take(asks))
