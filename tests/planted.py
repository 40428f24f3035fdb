"""A planted boundary: cells whose rates are known in logits, with noise between seeds and test images."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from analysis.active_search import fit_surrogates, propose
from analysis.cells import Cell, DecisionRule
from analysis.grid_boundary import GridBoundary, grid_boundary
from analysis.search_grid import Candidate, Grid
from analysis.verdict import Verdict

RULE, FLOOR, IMAGES = DecisionRule(), 0.95, 360
DECAYS = np.geomspace(0.005, 0.1, 9).tolist()
RATES = np.geomspace(0.001, 0.1, 33).tolist()


def one_axis() -> Grid:
    return Grid([{"attack.name": "badnets", "poison_rate": rate} for rate in RATES])


def two_axes() -> Grid:
    settings = [{"poison_rate": rate, "train.weight_decay": d} for d in DECAYS for rate in RATES[::4]]
    return Grid([{"attack.name": "badnets"} | setting for setting in settings])


@dataclass
class Planted:
    """Attack success crosses its threshold at log10 rate = `at` + `tilt` (log10 decay + 2) + `bend` (...)^2."""

    grid: Grid
    at: float
    tilt: float = 0.0
    bend: float = 0.0
    steep: float = 4.0  # logits a decade
    spread: float = 0.5  # logits between seeds
    draw: int = 0

    def edge(self, place: dict[str, float]) -> float:
        """log10 of the largest defended rate."""
        more = np.log10(place.get("train.weight_decay", 0.01)) + 2
        return float(self.at + self.tilt * more + self.bend * more**2)

    def cell(self, candidate: Candidate, seeds: int) -> Cell:
        place = dict(zip(self.grid.axes, candidate.values, strict=True))
        rng = np.random.default_rng([self.draw, *(round(1e6 * v) for v in candidate.values)])
        middle = logit(RULE.max_attack_success) + self.steep * (np.log10(place["poison_rate"]) - self.edge(place))
        chances = expit(np.array([[middle], [logit(0.975)]]) + [[self.spread], [0.1]] * rng.standard_normal((2, seeds)))
        success, accuracy = rng.binomial(IMAGES, chances) / IMAGES
        defended = (success <= RULE.max_attack_success) & (accuracy >= FLOOR)
        setting = {"attack.name": "badnets"} | place
        return Cell(
            setting=setting,
            seeds=tuple(range(seeds)),
            clean_accuracy=tuple(accuracy.tolist()),
            attack_success=tuple(success.tolist()),
            clean_count=(float(IMAGES),) * seeds,
            triggered_count=(float(IMAGES),) * seeds,
            min_accuracy=FLOOR,
            seed_defended=tuple(defended.tolist()),
            failures=0,
            verdict=Verdict(setting=setting, status="uncertain", reason=""),
        )

    def measured(self, asked: dict[Candidate, int]) -> list[Cell]:
        return [self.cell(candidate, seeds) for candidate, seeds in asked.items()]

    def boundary(self, asked: dict[Candidate, int]) -> GridBoundary:
        return grid_boundary(self.grid, fit_surrogates(self.grid, self.measured(asked), RULE), "poison_rate")

    def error(self, asked: dict[Candidate, int]) -> float:
        """Decades between the boundary found and the planted one: the mean over lines."""
        found = self.boundary(asked)
        edges = [self.edge({k: float(str(v)) for k, v in s.items() if k in self.grid.axes}) for s in found.settings]
        truth = np.log10(found.values)[None] <= np.array(edges)[:, None]
        return float((found.defended ^ truth).mean() * found.decades)


def searched(planted: Planted, trials: int, batch: int, seeds: int = 3) -> dict[Candidate, int]:
    """What a search has asked for when its trials are spent."""
    asked = dict.fromkeys(planted.grid.initial_design(), seeds)
    while (left := trials - sum(asked.values())) >= seeds:
        candidates = propose(
            planted.grid,
            planted.measured(asked),
            asked,
            RULE,
            batch=min(batch, left // seeds),
            seeds=seeds,
            max_seeds=2 * seeds,
        )
        if not candidates:
            break
        asked |= {candidate: asked.get(candidate, 0) + seeds for candidate in candidates}
    return asked
