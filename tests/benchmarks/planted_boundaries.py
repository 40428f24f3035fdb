"""Planted maps of two axes: what the boundary search finds with a quarter of the grid, and what random cells do.

A map is a grid of 17 poison rates x 9 weight decays, three seeds a cell, half a logit of noise between seeds. Half of
the draws have slopes for edges (40 logits an axis, from 1 to 95 %), half have steps (2 and 90 %). A feature is missed
whole if the surface calls none of its cells right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from analysis import DefendedRegionMap
from analysis.active_search import fit_surrogates, propose
from analysis.cells import Cell, DecisionRule
from analysis.grid_boundary import grid_boundary
from analysis.search_grid import Candidate, Grid

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Inside = Callable[[Floats], Floats]  # (m, 2) places in [0, 1]: widths inside the region, negative outside
Asked = dict[Candidate, int]  # seeds of each
DRAWS, SEEDS, BATCH, IMAGES = 100, 3, 4, 360
STOP_DECADES = 0.1  # as in sweeps/boundary.py
RATE, DECAY = "poison_rate", "train.weight_decay"
RATES, DECAYS = np.geomspace(1e-3, 1e-1, 17).tolist(), np.geomspace(5e-3, 1e-1, 9).tolist()
GRID = Grid([{"attack.name": "badnets", RATE: rate, DECAY: decay} for decay in DECAYS for rate in RATES])
SITES = list(GRID.costs)
QUARTER = len(SITES) // 4
RULE = DecisionRule()


@dataclass(frozen=True)
class Shape:
    """A planted region, and the island, hole or strip in it that a search may miss."""

    inside: Inside
    feature: Inside | None = None


def edge(low: float, high: float, tilt: float, rng: np.random.Generator) -> Inside:
    """The region left of a straight line that crosses the middle between `low` and `high`."""
    at, lean = rng.uniform(low, high), rng.uniform(-tilt, tilt)
    return lambda u: (at + lean * (u[:, 1] - 0.5) - u[:, 0]) / np.hypot(1, lean)


def disc(low: float, high: float, size: float, steps: bool, rng: np.random.Generator) -> Inside:
    """A disc whose middle lies between `low` and `high` along the rates; round in widths of the axes or in `steps`."""
    middle = np.array([rng.uniform(low, high), rng.uniform(0.2, 0.8)])
    units = np.array([16, 8]) / 11.3 if steps else np.ones(2)  # as large in either
    radius = size * rng.uniform(0.9, 1.1)
    return lambda u: radius - np.hypot(*((u - middle) * units).T)


def strip(rng: np.random.Generator) -> Inside:
    """A strip in any direction."""
    angle, middle, half = rng.uniform(0, np.pi), rng.uniform(0.3, 0.7, 2), rng.uniform(0.06, 0.1)
    return lambda u: half - np.abs((u - middle) @ [np.cos(angle), np.sin(angle)])


def _island(steps: bool, rng: np.random.Generator) -> Shape:
    island = disc(0.2, 0.8, 0.15, steps, rng)
    return Shape(island, island)


def _hole(steps: bool, rng: np.random.Generator) -> Shape:
    hole = disc(0.2, 0.8, 0.22, steps, rng)
    return Shape(lambda u: -hole(u), hole)


def _strip(steps: bool, rng: np.random.Generator) -> Shape:
    one = strip(rng)
    return Shape(one, one)


def _edge_and_island(steps: bool, rng: np.random.Generator) -> Shape:
    region, island = edge(0.15, 0.35, 0.3, rng), disc(0.65, 0.85, 0.15, steps, rng)
    return Shape(lambda u: np.maximum(region(u), island(u)), island)


def _edge_and_hole(steps: bool, rng: np.random.Generator) -> Shape:
    region, hole = edge(0.7, 0.85, 0.3, rng), disc(0.2, 0.4, 0.22, steps, rng)
    return Shape(lambda u: np.minimum(region(u), -hole(u)), hole)


SHAPES: dict[str, Callable[[bool, np.random.Generator], Shape]] = {
    "monotone edge": lambda _, rng: Shape(edge(0.25, 0.75, 0, rng)),
    "diagonal edge": lambda _, rng: Shape(edge(0.4, 0.6, 0.9, rng)),
    "island": _island,
    "hole": _hole,
    "strip": _strip,
    "edge + island": _edge_and_island,
    "edge + hole": _edge_and_hole,
}


@dataclass(frozen=True)
class Found:
    """What a set of cells found of a planted map: shares."""

    missed: float  # 1 if the feature was missed whole, 0 if not, NaN if there is none
    wrong: float  # of the grid's cells, by the means of the surface
    sure: float  # likewise, of those on the wrong side by its 90 % bands
    used: float  # trials, of the grid's


class PlantedMap:
    """One draw of a shape, its trials seed by seed."""

    def __init__(self, shape: str, draw: int) -> None:
        rng, steps = np.random.default_rng([list(SHAPES).index(shape), draw]), draw % 2 == 1
        planted, places = SHAPES[shape](steps, rng), _places()
        inside = planted.inside(places)
        slope = np.clip(logit(RULE.max_attack_success) - 40 * inside, logit(0.01), logit(0.95))
        success = np.where(inside > 0, logit(0.02), logit(0.9)) if steps else slope
        self.defended: Flags = inside > 0
        self.feature: Flags = np.zeros(len(SITES), bool) if planted.feature is None else planted.feature(places) > 0
        both = np.stack([success, np.full(len(SITES), logit(0.975))])[:, :, None]
        chances = expit(both + np.array([0.5, 0.1])[:, None, None] * rng.standard_normal((2, len(SITES), 2 * SEEDS)))
        self.rates = rng.binomial(IMAGES, chances) / IMAGES  # (2, cells, seeds): attack success, clean accuracy
        self.cells = {seeds: self._cells(seeds) for seeds in (SEEDS, 2 * SEEDS)}

    def measured(self, asked: Mapping[Candidate, int]) -> list[Cell]:
        """The cells asked for."""
        return [self.cells[seeds][site] for site, seeds in asked.items()]

    def judge(self, asked: Mapping[Candidate, int]) -> Found:
        """What the surface through the cells asked for says, against what was planted."""
        [surrogate] = fit_surrogates(GRID, self.measured(asked), RULE).values()
        bands = surrogate.bands(GRID.coordinates(site.values for site in SITES))
        right = bands.defended == self.defended
        sure = np.where(self.defended, bands.surely_undefended, bands.surely_defended)
        missed = float(not right[self.feature].any()) if self.feature.any() else float("nan")
        return Found(missed, float((~right).mean()), float(sure.mean()), sum(asked.values()) / (SEEDS * len(SITES)))

    def _cells(self, seeds: int) -> dict[Candidate, Cell]:
        at, seed = np.indices((len(SITES), seeds)).reshape(2, -1)
        columns = {name: [SITES[i].values[k] for i in at] for k, name in enumerate(GRID.axes)}
        rates = {"attack_success": self.rates[0, at, seed], "clean_accuracy": self.rates[1, at, seed]}
        twins = pd.DataFrame({DECAY: np.repeat([DECAYS[0], DECAYS[-1]], SEEDS), "seed": [*range(SEEDS)] * 2})
        twins = twins.assign(attack_success=0.0, clean_accuracy=0.975, **{RATE: 0.0})
        frame = pd.concat([pd.DataFrame(columns | rates | {"seed": seed}), twins]).assign(**{"attack.name": "badnets"})
        found = DefendedRegionMap.from_frame(frame.assign(clean_count=IMAGES, triggered_count=IMAGES))
        return {GRID.candidate(cell.setting): cell for cell in found.cells if cell.poisoned}


@cache
def _places() -> Floats:
    """(m, 2) the rate and the decay of each cell, in widths of the axes."""
    points = GRID.coordinates(site.values for site in SITES)
    points = (points - points.min(0)) / np.ptp(points, axis=0)
    return points[:, [list(GRID.axes).index(name) for name in (RATE, DECAY)]]


def search(truth: PlantedMap, draw: int, fill: bool = True) -> Asked:
    """What the search asks for with a quarter of the grid's trials; without `fill`, as it was before 0.4."""
    asked = dict.fromkeys(GRID.initial_design(), SEEDS)
    while room := min(BATCH, QUARTER - sum(asked.values()) // SEEDS):
        cells = truth.measured(asked)
        surrogates = fit_surrogates(GRID, cells, RULE)
        if surrogates and fill and grid_boundary(GRID, surrogates, RATE).is_sure(GRID, asked, STOP_DECADES):
            break
        new = propose(GRID, cells, asked, RULE, batch=room, seeds=SEEDS, max_seeds=2 * SEEDS, fill=fill)
        if not new:
            break
        asked |= {site: asked.get(site, 0) + SEEDS for site in new}
    return asked


def random_cells(truth: PlantedMap, draw: int) -> Asked:
    """A quarter of the grid's cells, by chance."""
    chosen = np.random.default_rng([draw, QUARTER]).permutation(len(SITES))[:QUARTER]
    return dict.fromkeys([SITES[i] for i in chosen.tolist()], SEEDS)


def least_sure(truth: PlantedMap, draw: int) -> Asked:
    """The search without space filling."""
    return search(truth, draw, fill=False)


POLICIES: dict[str, Callable[[PlantedMap, int], Asked]] = {
    "search": search,
    "random": random_cells,
    "least sure alone": least_sure,
}


def measure(shape: str, draws: range, policies: Mapping[str, Callable[[PlantedMap, int], Asked]]) -> dict[str, Found]:
    """The mean over draws of what each policy finds of a shape."""
    found: dict[str, list[Found]] = {name: [] for name in policies}
    for draw in draws:
        truth = PlantedMap(shape, draw)
        for name, policy in policies.items():
            found[name].append(truth.judge(policy(truth, draw)))
    return {name: _mean(each) for name, each in found.items()}


def _mean(found: list[Found]) -> Found:
    rows = np.array([[one.missed, one.wrong, one.sure, one.used] for one in found])
    missed = rows[~np.isnan(rows[:, 0]), 0]
    return Found(float(missed.mean()) if len(missed) else float("nan"), *rows[:, 1:].mean(0).tolist())


def planted_boundaries(draws: int = DRAWS) -> str:
    """A table in Markdown: of each shape and policy, features missed whole, wrong cells, surely wrong cells, trials."""
    head = ["shape", *(f"{name}: missed / wrong / surely wrong / used" for name in POLICIES)]
    lines = [head, ["---"] * len(head)]
    for shape in SHAPES:
        found = measure(shape, range(draws), POLICIES)
        lines.append([shape, *(_figures(one) for one in found.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(found: Found) -> str:
    missed = "-" if np.isnan(found.missed) else f"{found.missed:.0%}"
    return f"{missed} / {100 * found.wrong:.1f} / {100 * found.sure:.1f} / {found.used:.0%}"
