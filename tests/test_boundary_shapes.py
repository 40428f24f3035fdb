"""The search on planted islands, holes and strips: never worse than random cells, never sure of what it left out."""

from itertools import product

import numpy as np
import pytest

from analysis.active_search import propose
from analysis.search_grid import Candidate, Grid
from analysis.space_filling import describe_coverage, farthest, gaps, is_filled, seen_blocks
from tests.benchmarks.planted_boundaries import (
    GRID,
    POLICIES,
    QUARTER,
    RULE,
    SEEDS,
    SHAPES,
    SITES,
    PlantedMap,
    least_sure,
    measure,
    random_cells,
    search,
)
from tests.planted import Planted, two_axes

SMALL = Grid([{"attack.name": "a", "poison_rate": r, "model.width": w} for r in (0.1, 0.2, 0.3) for w in (1.0, 2.0)])


def sites(grid: Grid, *places: tuple[int, ...]) -> list[Candidate]:
    values = list(grid.axes.values())
    return [Candidate((), tuple(own[i] for own, i in zip(values, place, strict=True))) for place in places]


@pytest.mark.parametrize("shape", ["island", "hole"])
def test_a_quarter_of_the_grid_finds_what_the_least_sure_cells_alone_miss(shape: str) -> None:
    found = measure(shape, range(3), {"search": search, "alone": least_sure, "random": random_cells})
    assert found["search"].missed == 0
    assert found["search"].wrong < found["random"].wrong
    assert found["search"].sure <= found["alone"].sure
    assert found["search"].used > 0.24
    assert found["alone"].missed > 0.5
    assert found["alone"].used < 0.15  # it was sure, and stopped


@pytest.mark.calibration
@pytest.mark.parametrize("shape", SHAPES)
def test_no_planted_shape_is_found_worse_than_by_random_cells(shape: str) -> None:
    found = measure(shape, range(40), POLICIES)
    assert not found["search"].missed > found["random"].missed
    assert found["search"].wrong <= found["random"].wrong
    if "edge" in shape and "+" not in shape:  # as good as before on what it was made for
        assert found["search"].wrong <= found["least sure alone"].wrong + 0.002


def test_every_other_cell_is_the_farthest_from_all_before_it() -> None:
    truth = PlantedMap("edge + island", 3)
    asked = dict.fromkeys(GRID.initial_design(), SEEDS)
    batch = propose(GRID, truth.measured(asked), asked, RULE, batch=8, seeds=SEEDS, max_seeds=SEEDS)
    places = {
        site: np.array([own.index(v) for own, v in zip(GRID.axes.values(), site.values, strict=True)]) for site in SITES
    }
    known, filling = list(asked), []
    for site in batch:
        near = {one: min(((places[one] - places[k]) ** 2).sum() for k in known) for one in SITES}
        filling.append(near[site] == max(near.values()))
        known.append(site)
    assert filling[1::2] == [True] * 4  # five were asked for: the sixth fills space
    assert not all(filling)


def test_a_sure_surface_does_not_end_the_search_before_space_is_filled() -> None:
    """All defended, far from every threshold: nothing is unsure, and cells are asked for until none is far from one."""
    truth = Planted(two_axes(), at=3.0, spread=0.05)
    asked = dict.fromkeys(truth.grid.initial_design(), SEEDS)
    while new := propose(truth.grid, truth.measured(asked), asked, RULE, batch=4, seeds=SEEDS, max_seeds=SEEDS):
        assert not is_filled(truth.grid, asked)
        asked |= dict.fromkeys(new, SEEDS)
    assert is_filled(truth.grid, asked)
    assert 0.25 < len(asked) / len(truth.grid.costs) <= 0.51  # the farthest each time: in the end every other cell


def test_gaps_against_every_pair() -> None:
    rng = np.random.default_rng(0)
    known = [SITES[i] for i in rng.permutation(len(SITES))[:7].tolist()]
    steps = {site: [own.index(v) for own, v in zip(GRID.axes.values(), site.values, strict=True)] for site in SITES}
    expected = [min(sum((a - b) ** 2 for a, b in zip(steps[s], steps[k], strict=True)) for k in known) for s in SITES]
    assert gaps(GRID, SITES, known).tolist() == expected


def test_a_grid_is_filled_when_no_cell_lies_two_steps_off() -> None:
    """Two rows of three (`model.width` comes first)."""
    assert list(SMALL.axes) == ["model.width", "poison_rate"]
    assert is_filled(SMALL, sites(SMALL, (0, 0), (1, 2)))
    assert not is_filled(SMALL, sites(SMALL, (0, 0), (0, 2)))  # (1, 1) is two steps from both
    assert is_filled(SMALL, sites(SMALL, (0, 0), (0, 2), (1, 1)))
    groups = Grid([s | {"attack.name": name} for s in SMALL.settings() for name in "ab"])
    assert not is_filled(groups, [Candidate(("a",), one.values) for one in SMALL.costs])


def test_the_farthest_and_of_those_as_far_the_least_sure() -> None:
    free = sites(SMALL, (0, 1), (1, 1), (0, 2), (1, 2))
    at = sites(SMALL, (0, 0), (1, 0))
    assert farthest(SMALL, free, at, np.array([9.0, 9.0, 0.0, 0.1])) == 3
    assert farthest(SMALL, free, at, np.zeros(4)) == 2
    assert farthest(SMALL, free, [], np.array([0.0, 2.0, 1.0, 0.0])) == 1


@pytest.mark.parametrize("draw", range(6))
def test_the_block_that_holds_a_measured_cell_wherever_it_lies(draw: int) -> None:
    rng = np.random.default_rng(draw)
    known = [SITES[i] for i in rng.permutation(len(SITES))[: 5 + 12 * draw].tolist()]
    sizes = [len(own) for own in GRID.axes.values()]
    places = {tuple(own.index(v) for own, v in zip(GRID.axes.values(), s.values, strict=True)) for s in known}

    def holds(block: list[int]) -> bool:
        corners = product(*[range(n - b + 1) for n, b in zip(sizes, block, strict=True)])
        return all(
            any(all(c <= x < c + b for c, x, b in zip(at, p, block, strict=True)) for p in places) for at in corners
        )

    side = next(k for k in range(1, 18) if holds([min(k, n) for n in sizes]))
    assert seen_blocks(GRID, known) == [min(side, n) for n in sizes]


def test_what_is_said_of_the_grid_by_hand() -> None:
    said = describe_coverage(SMALL, sites(SMALL, (0, 0), (1, 2)))
    assert said.startswith(
        "2 of 6 cells are measured, 4 more lie a step from these; every block of 2 (model.width) x 2"
    )
    assert "may have been missed" in said
    assert seen_blocks(SMALL, []) == [3, 4]
    assert QUARTER == 38
