"""Active search for the boundary of the defended region: the cells whose verdict is least sure, in batches.

Surrogates through what is measured (logits of attack success and of clean accuracy) give for every candidate its
distance from both thresholds and the uncertainty of that. Proposed are candidates with the largest straddle,
1.645 s - |m - t|, for their cost (Bryan et al., Active Learning for Identifying Function Threshold Boundaries, NIPS
2005, section 3.2). After each one of a batch the posterior is conditioned on its own mean there (the kriging believer
of Ginsbourger, Le Riche & Carraro, Kriging is well-suited to parallelize optimization, 2010), so that the next is
elsewhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from analysis.cells import Cell, DecisionRule
from analysis.search_grid import Candidate, Grid, Group
from analysis.statistics import Z
from analysis.surrogate import EXTRA, NoSurrogateError, Surrogate, fit_surrogate

Floats = NDArray[np.float64]


class Posterior:
    """The joint posterior of both rates at a group's candidates, given what is measured and the batch chosen so far.

    Args:
        surrogate: of the group.
        points: (m, d) coordinates of the candidates.
        cost: (m,) of measuring each, in any unit.
        seeds: how many are run at once.
    """

    def __init__(self, surrogate: Surrogate, points: Floats, cost: Floats, seeds: int) -> None:
        self.cost = cost
        floor = np.clip(surrogate.min_accuracy, 0, 1)
        success, accuracy = (process.predict(points)[0] for process in surrogate.processes)
        self.margin = np.stack([logit(surrogate.max_attack_success) - success, accuracy - logit(floor)])
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
) -> list[Candidate]:
    """At most `batch` candidates to run `seeds` more seeds at, best first; none if every verdict is sure.

    A candidate that was asked for is asked again only if its seeds disagree, up to `max_seeds`: one whose trials fail
    is not. A group without a surrogate (its trials failed) gives the candidate that is farthest from those asked.

    Args:
        grid: what could be measured.
        cells: what has been.
        asked: how many seeds have been asked for at each candidate, finished or failed.
        rule: the thresholds.
        batch: how many candidates.
        seeds: how many seeds each will get.
        max_seeds: how many seeds a candidate may have.
    """
    mixed = {grid.candidate(c.setting) for c in cells if c.poisoned and 0 < c.n_defended < len(c.seeds)}
    again = {candidate for candidate in mixed if asked.get(candidate, 0) + seeds <= max_seeds}
    free = [candidate for candidate in grid.costs if candidate in again or not asked.get(candidate)]
    by_group = {group: [c for c in free if c.group == group] for group in grid.groups}
    surrogates = fit_surrogates(grid, cells, rule)
    failed = [_farthest(grid, by_group[g], asked) for g in grid.groups if g not in surrogates and by_group[g]]
    posteriors = {}
    for group, surrogate in surrogates.items():
        if candidates := by_group[group]:
            points = grid.coordinates(c.values for c in candidates)
            costs = np.array([grid.costs[c] for c in candidates])
            posteriors[group] = Posterior(surrogate, points, costs, seeds)
    return (failed + _greedy_batch(posteriors, by_group, batch))[:batch]


def _greedy_batch(
    posteriors: Mapping[Group, Posterior], candidates: Mapping[Group, list[Candidate]], batch: int
) -> list[Candidate]:
    """One after the other, each as if those before it had been measured."""
    chosen: list[Candidate] = []
    while posteriors and len(chosen) < batch:
        scores = {group: posterior.acquisition() for group, posterior in posteriors.items()}
        for group, values in scores.items():
            values[[candidates[group].index(c) for c in chosen if c.group == group]] = 0
        group = max(scores, key=lambda one: scores[one].max())
        index = int(scores[group].argmax())
        if scores[group][index] <= 0:
            break
        chosen.append(candidates[group][index])
        posteriors[group].condition(index)
    return chosen


def _farthest(grid: Grid, candidates: Sequence[Candidate], asked: Mapping[Candidate, int]) -> Candidate:
    """Of `candidates` the one farthest from those of its group that were asked for, in widths of the axes."""
    known = [c.values for c in asked if c.group == candidates[0].group]
    if not known:
        return candidates[0]
    points, others = grid.coordinates(c.values for c in candidates), grid.coordinates(known)
    ends = grid.coordinates([[values[0] for values in grid.axes.values()], [v[-1] for v in grid.axes.values()]])
    distances = ((points[:, None] - others[None]) / (ends[1] - ends[0])) ** 2
    return candidates[int(distances.sum(-1).min(1).argmax())]
