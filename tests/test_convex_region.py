"""The region of good accuracy without a backdoor, on the published rows of MNIST 7-1 with the 3x3 trigger (H10)."""

import numpy as np
import pytest
from scipy.special import expit, logit

from raybd.convex.region import defended, region_width, region_width_band
from raybd.errors import InputError

GRID = np.geomspace(1e-4, 1e3, 10)
# Test points out of 500 that are right, for seeds 1, 10, 11, 100, 101 (columns) and ascending C (rows).
CLEAN = {
    "svm": "436 439 439 447 441  476 477 478 478 477  482 486 486 485 487  486 490 488 488 488  487 488 491 489 489 "
    "493 489 491 490 491  488 488 486 490 486  488 488 486 490 486  488 488 486 490 486  488 488 486 490 486",
    "logistic": "470 473 470 473 473  473 474 472 475 476  480 480 479 480 480  482 485 484 487 486 "
    "487 490 488 492 489  491 491 492 492 492  492 492 493 492 494  491 492 493 493 494  490 491 491 490 494 "
    "490 491 491 490 492",
    "ridge": "470 472 470 473 473  478 479 478 480 479  481 484 485 488 487  485 490 489 489 488  490 491 491 490 490 "
    "491 491 492 491 491  487 488 488 487 487  484 486 487 486 485  482 484 484 484 482  483 482 481 483 480",
}
ATTACK = {
    "svm": "64 61 62 53 61  24 24 25 21 23  19 19 28 11 19  269 312 406 256 51  478 493 496 471 486 "
    "483 491 493 473 487  477 485 486 465 481  477 485 486 465 481  477 485 486 465 481  477 485 486 465 481",
    "logistic": "30 27 30 27 27  27 26 28 24 26  20 21 27 19 20  36 58 79 25 26  254 361 392 200 143 "
    "443 478 485 392 449  471 485 492 449 479  475 486 493 461 484  480 488 492 462 486  479 487 492 464 485",
    "ridge": "30 28 31 26 28  23 24 27 20 23  63 156 222 48 34  397 488 496 367 414  500 499 500 499 499 "
    "499 499 499 499 499  497 498 499 498 498  493 493 493 490 493  487 488 488 488 488  483 484 484 482 483",
}
# The RBF machine: sums over the five seeds, gamma from 5e-4 to 5e-2 (rows) and C from 0.1 to 100 (columns).
RBF_CLEAN = [
    [2198, 2327, 2369, 2392, 2409, 2431, 2440, 2443, 2447, 2455],
    [2354, 2389, 2401, 2424, 2435, 2444, 2443, 2449, 2455, 2456],
    [2396, 2416, 2430, 2442, 2446, 2447, 2455, 2460, 2464, 2465],
    [2434, 2443, 2446, 2450, 2453, 2465, 2466, 2469, 2469, 2469],
    [2463, 2462, 2466, 2474, 2475, 2475, 2475, 2475, 2475, 2475],
]
RBF_ATTACK = [
    [303, 172, 128, 110, 97, 99, 727, 1305, 1975, 2440],
    [144, 110, 100, 82, 205, 1101, 1788, 2423, 2469, 2470],
    [103, 86, 77, 729, 1431, 2164, 2433, 2446, 2429, 2420],
    [61, 59, 998, 1491, 2209, 2322, 2331, 2331, 2331, 2331],
    [53, 632, 1186, 1358, 1682, 1692, 1692, 1692, 1692, 1692],
]


def published(counts: dict[str, str], model: str) -> np.ndarray:
    """(5, 10) shares, a row a seed."""
    return np.array(counts[model].split(), dtype=float).reshape(10, 5).T / 500


def cells(model: str, **limits: float) -> list[int]:
    clean, attack = (published(counts, model).mean(0) for counts in (CLEAN, ATTACK))
    return np.flatnonzero(defended(clean, attack, **limits)).tolist()


def test_defended_cells_of_the_published_rows() -> None:
    assert cells("svm") == [2]
    clean, attack = (published(counts, "svm").mean(0)[2] for counts in (CLEAN, ATTACK))
    assert (round(GRID[2], 6), round(clean, 4), round(attack, 4)) == (0.003594, 0.9704, 0.0384)
    assert cells("svm", max_accuracy_loss=0.05) == [1, 2]
    assert cells("logistic") == [3]
    assert cells("ridge", max_attack_success=0.2) == []
    assert cells("ridge", max_attack_success=0.3) == [2]
    assert defended(np.array(RBF_CLEAN) / 2500, np.array(RBF_ATTACK) / 2500).sum() == 6


@pytest.mark.parametrize(("model", "decades"), [("svm", 0.90), ("logistic", 0.66), ("ridge", 0.48)])
def test_published_widths(model: str, decades: float) -> None:
    clean, attack = published(CLEAN, model), published(ATTACK, model)
    width = region_width(GRID, clean.mean(0), attack.mean(0), 500, max_attack_success=0.2)
    assert width == pytest.approx(decades, abs=0.005)
    low, high = region_width_band(GRID, clean, attack, 500, max_attack_success=0.2)
    assert low < width < high
    assert region_width_band(GRID, clean, attack, 500, max_attack_success=0.2) == (low, high)
    assert region_width_band(GRID, clean, attack, 500, max_attack_success=0.2, seed=1) != (low, high)


def test_width_of_straight_lines_in_logits() -> None:
    """Accuracy crosses its floor at 10^-1.5 and attack success its limit at 10^0.25: 1.75 decades by hand."""
    strengths, place = 10.0 ** np.arange(-3, 3), np.arange(-3, 3)
    floor = 0.95
    clean = expit(np.minimum(logit(floor) + (place + 1.5), logit(0.97)))
    attack = expit(logit(0.1) + 2 * (place - 0.25))
    clean[-1] = 0.97
    on_the_grid = region_width(strengths, clean, attack, 10**6)
    dense = 10.0 ** np.linspace(-3, 2, 5001)
    interpolated = [np.interp(np.log10(dense), place, logit(values)) for values in (clean, attack)]
    counted = ((interpolated[0] >= logit(0.95)) & (interpolated[1] <= logit(0.1))).mean() * 5
    assert on_the_grid == pytest.approx(1.75, abs=1e-9)
    assert on_the_grid == pytest.approx(counted, abs=2e-3)


@pytest.mark.parametrize("seed", range(5))
def test_width_counts_what_a_fine_grid_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, attack = rng.uniform(0.9, 1, 8), rng.uniform(0, 0.2, 8)
    strengths, fine = np.geomspace(1e-3, 1e3, 8), np.linspace(-3, 3, 60001)
    at = [np.interp(fine, np.log10(strengths), logit(v.clip(0.005, 0.995))) for v in (clean, attack)]
    inside = (at[0] >= logit(np.clip(clean.max() - 0.05, 0.005, 0.995))) & (at[1] <= logit(0.1))
    assert region_width(strengths, clean, attack, 100, 0.05) == pytest.approx(inside.mean() * 6, abs=1e-3)


def test_all_none_and_flat() -> None:
    grid, share = np.array([0.1, 1.0, 10.0]), np.full(3, 0.9)
    assert region_width(grid, share, np.zeros(3), 100) == pytest.approx(2)
    assert region_width(grid, share, np.ones(3), 100) == 0
    assert region_width(grid, share, np.full(3, 0.1), 100) == pytest.approx(2)
    assert region_width_band(grid, share[None], np.zeros((1, 3)), 100, resamples=3) == pytest.approx((2, 2))


@pytest.mark.parametrize(
    ("grid", "clean", "attack", "samples", "message"),
    [
        ([1, 0.1], [0.9, 0.9], [0, 0], 10, "must ascend from above 0"),
        ([0, 1], [0.9, 0.9], [0, 0], 10, "must ascend from above 0"),
        ([0.1, 1], [0.9, 0.9, 0.9], [0, 0], 10, "are not one for each C"),
        ([0.1, 1], [0.9, 0.9], [0, 0], 0, "0 test points"),
    ],
)
def test_grids_that_are_none(
    grid: list[float], clean: list[float], attack: list[float], samples: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        region_width(np.array(grid), np.array(clean), np.array(attack), samples)


def test_band_of_two_seeds_by_hand() -> None:
    """Of two seeds a quarter of the resamples are one seed twice, so the 5 % and 95 % points are the seeds alone."""
    clean = np.array([[0.95, 0.97, 0.98, 0.98], [0.97, 0.98, 0.98, 0.98]])
    attack = np.array([[0.02, 0.05, 0.3, 0.9], [0.02, 0.03, 0.04, 0.5]])
    grid = np.geomspace(0.01, 10, 4)
    alone = [region_width(grid, c, a, 500) for c, a in zip(clean, attack, strict=True)]
    assert alone[0] < region_width(grid, clean.mean(0), attack.mean(0), 500) < alone[1]
    assert region_width_band(grid, clean, attack, 500) == pytest.approx(tuple(alone), rel=1e-12)


def test_a_bootstrap_of_nothing() -> None:
    grid, share = np.array([0.1, 1.0]), np.full((2, 2), 0.9)
    for wrong in ({"resamples": 0}, {"attack_success": share[:1]}, {"clean_accuracy": share[0]}):
        settings = {"clean_accuracy": share, "attack_success": share} | wrong
        with pytest.raises(InputError, match="a bootstrap needs"):
            region_width_band(grid, samples=10, **settings)
