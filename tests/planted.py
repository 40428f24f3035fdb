"""A planted boundary: cells whose rates are known in logits, with noise between seeds and test images."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from analysis.active_search import Grid, Site, propose
from analysis.cells import Cell, Rule
from analysis.lines import Lines, lines
from analysis.verdict import Verdict

RULE, FLOOR, IMAGES = Rule(), 0.95, 360
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

    def cell(self, site: Site, seeds: int) -> Cell:
        place = dict(zip(self.grid.axes, site.place, strict=True))
        rng = np.random.default_rng([self.draw, *(round(1e6 * v) for v in site.place)])
        middle = logit(RULE.max_attack_success) + self.steep * (np.log10(place["poison_rate"]) - self.edge(place))
        chances = expit(np.array([[middle], [logit(0.975)]]) + [[self.spread], [0.1]] * rng.standard_normal((2, seeds)))
        success, accuracy = rng.binomial(IMAGES, chances) / IMAGES
        held = (success <= RULE.max_attack_success) & (accuracy >= FLOOR)
        setting = {"attack.name": "badnets"} | place
        return Cell(
            setting=setting,
            seeds=tuple(range(seeds)),
            clean_accuracy=tuple(accuracy.tolist()),
            attack_success=tuple(success.tolist()),
            clean_count=(float(IMAGES),) * seeds,
            triggered_count=(float(IMAGES),) * seeds,
            floor=FLOOR,
            held=tuple(held.tolist()),
            failures=0,
            verdict=Verdict(setting=setting, status="uncertain", reason=""),
        )

    def measured(self, asked: dict[Site, int]) -> list[Cell]:
        return [self.cell(site, seeds) for site, seeds in asked.items()]

    def lines(self, asked: dict[Site, int]) -> Lines:
        return lines(self.grid, self.grid.patches(self.measured(asked), RULE), "poison_rate")

    def error(self, asked: dict[Site, int]) -> float:
        """Decades between the boundary found and the planted one: the mean over lines."""
        found = self.lines(asked)
        edges = [self.edge({k: float(str(v)) for k, v in s.items() if k in self.grid.axes}) for s in found.settings]
        truth = np.log10(found.values)[None] <= np.array(edges)[:, None]
        return float((found.defended ^ truth).mean() * found.length)


def searched(planted: Planted, trials: int, batch: int, seeds: int = 3) -> dict[Site, int]:
    """What a search has asked for when its trials are spent."""
    asked = dict.fromkeys(planted.grid.design(), seeds)
    while (left := trials - sum(asked.values())) >= seeds:
        sites = propose(
            planted.grid,
            planted.measured(asked),
            asked,
            RULE,
            batch=min(batch, left // seeds),
            seeds=seeds,
            most_seeds=2 * seeds,
        )
        if not sites:
            break
        asked |= {site: asked.get(site, 0) + seeds for site in sites}
    return asked
