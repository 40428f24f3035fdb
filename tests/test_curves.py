"""Where a curve passes a level, and how much lies under it."""

import math

import numpy as np
import pytest

from raybd.utils.curves import crossing, log_area, log_slope


def test_crossing_is_straight_between_positions_or_their_logarithms() -> None:
    assert crossing([1, 3], [0.25, 0.75]) == 2
    assert crossing([0.01, 1], [0.25, 0.75], log=True) == pytest.approx(0.1, rel=1e-12)
    assert crossing([0, 1, 2, 4], [0, 0.1, 0.4, 0.9], level=0.7) == pytest.approx(3.2)


def test_crossing_at_the_ends() -> None:
    assert crossing([1, 2], [0.5, 0]) == 1  # on the level counts
    assert crossing([1, 2], [0.1, 0.49]) == math.inf
    assert crossing([0, 0.01, 1], [0.1, 0.9, 1], log=True) == 0.01  # 0 has no logarithm
    assert crossing([], []) == math.inf
    assert crossing([1, 2, 3, 4], [0, 0.6, 0.2, 0.9]) == pytest.approx(1 + 5 / 6)  # the first of two


def test_unknown_shares_are_left_out() -> None:
    assert crossing([1, 2, 3], [0.25, math.nan, 0.75]) == 2
    assert log_area([1, 10, 100], [1, math.nan, 0]) == 0.5


def test_area_is_the_mean_over_decades() -> None:
    assert log_area([0, 0.01, 0.1, 1], [0.9, 0, 0.5, 1]) == pytest.approx(0.5)
    assert log_area([0.01, 1], [0.3, 0.3]) == pytest.approx(0.3)
    betas, scale = np.geomspace(1e-3, 1, 50), 7.0
    shares = betas / (betas + 0.1)
    assert log_area(betas, shares) == pytest.approx(log_area(scale * betas, shares), rel=1e-12)
    exact = np.log((1 + 0.1) / (1e-3 + 0.1)) / np.log(1e3)  # of b / (b + 0.1) over d ln b
    assert log_area(betas, shares) == pytest.approx(exact, rel=1e-3)
    assert math.isnan(log_area([0, 1], [0, 1]))


def test_log_slope() -> None:
    assert log_slope(-100.0) == 2
    assert math.isnan(log_slope(0.5))


def test_positions_must_ascend() -> None:
    with pytest.raises(ValueError, match="ascending"):
        crossing([1, 1], [0, 1])
    with pytest.raises(ValueError, match="ascending"):
        log_area([2, 1], [0, 1])
