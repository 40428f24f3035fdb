"""Active search for the boundary of the defended region: cells that fill the grid, and those least sure.

A surface is only as sure as its length scales, and those are learnt from the cells that it has: what lies between them
unseen, an island or a hole, it takes for sure. So every other cell fills space: the one farthest from all that were
asked for, until each cell of the grid is one step from one of these. The others are those with the largest straddle,
1.645 s - |m - t|, for their cost (Bryan et al., Active Learning for Identifying Function Threshold Boundaries, NIPS
2005, section 3.2): surrogates through what is measured (logits of attack success and of clean accuracy) give the
distance m - t from both thresholds and its deviation s. After each cell of a batch the posterior is conditioned on its
own mean there (the kriging believer of Ginsbourger, Le Riche & Carraro, Kriging is well-suited to parallelize
optimization, 2010), so that the next is elsewhere.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cell, DecisionRule
from analysis.search_grid import Candidate, Grid, Group
from analysis.space_filling import farthest, is_filled
from analysis.statistics import Z
from analysis.surrogate import EXTRA, NoSurrogateError, Surrogate, fit_surrogate

Floats = NDArray[np.float64]


class Posterior:
    """The joint posterior of both rates at a group's candidates, given what is measured and the batch chosen so far.

    Beside a cell that the surface passes over its means are known to be wrong, and tell no distance from a threshold.

    Args:
        surrogate: of the group.
        points: (m, d) coordinates of the candidates.
        cost: (m,) of measuring each, in any unit.
        seeds: how many are run at once.
    """

    def __init__(self, surrogate: Surrogate, points: Floats, cost: Floats, seeds: int) -> None:
        self.cost = cost
        self.margin = np.where(surrogate.bands(points).overruled, 0.0, surrogate.margins(points))
        self.covariance = np.stack([process.covariance(points) for process in surrogate.processes])
        self.noise = np.array([surrogate.success.spread, surrogate.accuracy.spread]) ** 2 / seeds

    def straddle(self) -> Floats:
        """(m,) logits by which the 90 % band reaches over a threshold; negative where the verdict is sure.

        The larger of the two, but where one rate is surely beyond its threshold the other does not matter.
        """
        reach = Z * np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0))
        undefended = (self.margin < -reach).any(0)
        return np.where(undefended, -np.inf, (reach - np.abs(self.margin)).max(0))

    def acquisition(self) -> Floats:
        """(m,) straddle for its cost; 0 where the verdict is sure."""
        scores: Floats = np.maximum(self.straddle(), 0) / self.cost
        return scores

    def condition(self, index: int) -> None:
        """Condition on the mean of candidate `index`: the means stay, the covariances shrink.

        With k the column of the candidate and r the noise: C - k k' / (k_i + r) (Rasmussen & Williams, eq. 2.24).
        """
        column = self.covariance[:, :, index]
        total = column[:, index] + self.noise
        self.covariance = self.covariance - column[:, :, None] * column[:, None, :] / total[:, None, None]


def fit_surrogates(grid: Grid, cells: Sequence[Cell], rule: DecisionRule) -> dict[Group, Surrogate]:
    """The surrogate of each group that has enough measured cells."""
    surrogates = {}
    for group in grid.groups:
        usable = [c for c in cells if c.seeds and c.poisoned and grid.candidate(c.setting).group == group]
        usable = [c for c in usable if grid.candidate(c.setting) in grid.costs and not np.isnan(c.attack_success).any()]
        spanned = all(len({c.setting[n] for c in usable}) > 1 for n in grid.axes)
        if spanned and len(usable) >= len(grid.axes) + EXTRA:
            try:
                surrogates[group] = fit_surrogate(usable, grid.scales, rule)
            except NoSurrogateError:
                continue  # its seeds never finished twice in a cell: there is no band
    return {group: surrogate for group, surrogate in surrogates.items() if not np.isnan(surrogate.min_accuracy)}


def propose(
    grid: Grid,
    cells: Sequence[Cell],
    asked: Mapping[Candidate, int],
    rule: DecisionRule,
    *,
    batch: int,
    seeds: int,
    max_seeds: int,
    fill: bool = True,
) -> list[Candidate]:
    """At most `batch` candidates to run `seeds` more seeds at; none if space is filled and every verdict is sure.

    A candidate that was asked for is asked again only if its seeds disagree, up to `max_seeds`: one whose trials fail
    is not. A group without a surrogate (its trials failed) gives one candidate, to fill space.

    Args:
        grid: what could be measured.
        cells: what has been.
        asked: how many seeds have been asked for at each candidate, finished or failed.
        rule: the thresholds.
        batch: how many candidates.
        seeds: how many seeds each will get.
        max_seeds: how many seeds a candidate may have.
        fill: whether every other candidate fills space; if not, all are the least sure.
    """
    mixed = {grid.candidate(c.setting) for c in cells if c.poisoned and 0 < c.n_defended < len(c.seeds)}
    again = {candidate for candidate in mixed if asked.get(candidate, 0) + seeds <= max_seeds}
    free = [candidate for candidate in grid.costs if candidate in again or not asked.get(candidate)]
    round_ = Round(grid, free, fit_surrogates(grid, cells, rule), asked, seeds)
    start = sum(asked.values()) // seeds
    for number in range(start, start + batch):
        if not round_.choose(filling=fill and number % 2 == 0, may_fill=fill):
            break
    return round_.chosen


class Round:
    """A batch of candidates, chosen one after the other, each as if those before it had been measured.

    Args:
        grid: what could be measured.
        free: what may be chosen.
        surrogates: of the groups that have one.
        asked: what was asked for before.
        seeds: how many are run at once.
    """

    def __init__(
        self,
        grid: Grid,
        free: Sequence[Candidate],
        surrogates: Mapping[Group, Surrogate],
        asked: Collection[Candidate],
        seeds: int,
    ) -> None:
        self.grid, self.free, self.asked = grid, free, set(asked)
        self.chosen: list[Candidate] = []
        self.own = {group: [i for i, c in enumerate(free) if c.group == group] for group in surrogates}
        self.posteriors = {}
        for group, surrogate in surrogates.items():
            if own := [free[i] for i in self.own[group]]:
                costs = np.array([grid.costs[c] for c in own])
                self.posteriors[group] = Posterior(surrogate, grid.coordinates(c.values for c in own), costs, seeds)

    def choose(self, filling: bool, may_fill: bool) -> bool:
        """Choose one more: to fill space where `filling`, else the least sure; either if the other has none."""
        unsure = self._unsure()
        index = self._farthest(unsure) if filling else self._least_sure(unsure)
        if index is None:
            index = self._least_sure(unsure) if filling else self._farthest(unsure) if may_fill else None
        if index is None:
            return False
        candidate = self.free[index]
        self.chosen.append(candidate)
        if candidate.group in self.posteriors:
            self.posteriors[candidate.group].condition(self.own[candidate.group].index(index))
        return True

    def _unsure(self) -> Floats:
        """(m,) the acquisition of each candidate; 0 where it was chosen already or its group has no surrogate."""
        unsure = np.zeros(len(self.free))
        for group, posterior in self.posteriors.items():
            unsure[self.own[group]] = posterior.acquisition()
        unsure[[self.free.index(one) for one in self.chosen]] = 0
        return unsure

    def _least_sure(self, unsure: Floats) -> int | None:
        return int(unsure.argmax()) if len(unsure) and unsure.max() > 0 else None

    def _farthest(self, unsure: Floats) -> int | None:
        """The candidate farthest from what was asked for; None once every cell of the grid is one step from that."""
        known = self.asked.union(self.chosen)
        done = {one.group for one in self.chosen} - self.own.keys()  # one a batch of a group whose trials failed
        new = [i for i, one in enumerate(self.free) if one not in known and one.group not in done]
        if not new or is_filled(self.grid, known):
            return None
        return new[farthest(self.grid, [self.free[i] for i in new], known, unsure[new])]
