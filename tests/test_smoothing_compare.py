"""Gaps, correlations and the rule for a claim."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, t

from raybd.metrics.smoothing.compare import paired_gap, rank_correlation
from raybd.metrics.smoothing.conclusion import judge_smoothing, seed_interval
from raybd.metrics.smoothing.entropy import grassberger, plug_in_entropy
from raybd.utils.statistics import auroc

CLEAN_GAPS = [-0.05, -0.1, -0.02, -0.08, -0.06]
GAPS = [0.8, 0.7, 0.9, 0.85, 0.75]
CONTROLS = {"random_patch": [-0.1, 0.0, -0.2, 0.1, -0.1], "random_direction": [-0.4, -0.5, -0.3, -0.4, -0.6]}


def made(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.multinomial(64, [0.5, 0.3, 0.2], n), rng.multinomial(64, [0.95, 0.03, 0.02], n)


def test_a_gap_by_hand() -> None:
    clean, other = made()
    gap = paired_gap(clean, other)
    apart = grassberger(clean) - grassberger(other)
    assert gap.mean == pytest.approx(apart.mean())
    assert gap.se == pytest.approx(apart.std(ddof=1) / np.sqrt(40))
    assert gap.plug_in == pytest.approx((plug_in_entropy(clean) - plug_in_entropy(other)).mean())
    assert gap.share_positive == 1
    assert gap.auroc == pytest.approx(1)
    assert gap.p_value < 1e-7
    back = paired_gap(other, clean)
    assert (back.mean, back.share_positive, back.auroc) == pytest.approx((-gap.mean, 0, 0))
    assert back.p_value > 1 - 1e-7


def test_means_rest_on_the_first_look() -> None:
    clean, other = made()
    gap, early = paired_gap(clean, other), paired_gap(clean, other, (other, clean))
    assert early.mean == pytest.approx(-gap.mean)
    assert (early.plug_in, early.auroc) == (gap.plug_in, gap.auroc)


def test_no_difference_is_no_gap() -> None:
    clean, _ = made()
    gap = paired_gap(clean, clean)
    assert (gap.mean, gap.se, gap.share_positive, gap.p_value, gap.auroc) == (0, 0, 0, 1, 0.5)


def test_auroc_is_mann_whitney_s_u() -> None:
    rng = np.random.default_rng(1)
    clean, other = rng.integers(0, 9, 50) / 4.0, rng.integers(0, 7, 30) / 4.0  # with ties
    u = mannwhitneyu(clean, other).statistic
    assert auroc(-clean, -other) == pytest.approx(u / (50 * 30))


def test_rank_correlation_and_what_the_confounder_leaves() -> None:
    rng = np.random.default_rng(2)
    rate = rng.uniform(size=400)
    success, gap = rate + 0.1 * rng.normal(size=400), rate**3 + 0.1 * rng.normal(size=400)
    found = rank_correlation(success, gap, rate)
    assert found.low < found.rho < found.high
    assert found.rho > 0.7
    assert abs(found.partial) < 0.15  # the rate drove both
    caused = rank_correlation(success, success**3, rate)
    assert caused.partial == pytest.approx(1)
    assert caused.rho == pytest.approx(1)
    assert np.isnan(rank_correlation(rate, gap, rate).partial)


def test_the_interval_of_rho_covers() -> None:
    rng, rho = np.random.default_rng(3), 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of normal pairs of Pearson's 0.6
    covered = 0
    for _ in range(400):
        x, e = rng.normal(size=(2, 30))
        found = rank_correlation(x, 0.6 * x + 0.8 * e, e)
        covered += found.low <= rho <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_seed_interval_is_students() -> None:
    interval = seed_interval(GAPS)
    half = t.ppf(0.975, 4) * np.std(GAPS, ddof=1) / np.sqrt(5)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.8, 0.8 - half, 0.8 + half))
    assert seed_interval([0.3]).low == -np.inf


def test_smoothing_is_shown_when_everything_holds() -> None:
    found = judge_smoothing(GAPS, CLEAN_GAPS, CONTROLS)
    assert found.conclusion == "smoothing shown"
    assert found.missing == ()
    assert found.gap.mean == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("gaps", "clean_gaps", "controls", "verdict", "why"),
    [
        (GAPS[:4], CLEAN_GAPS[:4], {}, "not shown", "4 seed"),
        ([0.8, -0.7, 0.9, -0.85, 0.1], CLEAN_GAPS, CONTROLS, "not shown", "interval"),
        (GAPS, [0.1, 0.2, 0.05, 0.1, 0.1], CONTROLS, "not shown", "clean twins too"),
        (GAPS, [], CONTROLS, "not shown", "clean twins is not measured"),
        (GAPS, CLEAN_GAPS, {}, "not shown", "no control"),
        (GAPS, CLEAN_GAPS, {**CONTROLS, "moved_patch": [0.8, 0.9, 0.7, 0.8, 0.9]}, "not shown", "moved_patch"),
        ([-0.2, -0.3, -0.25, -0.2, -0.3], CLEAN_GAPS, CONTROLS, "reversed", "interval"),
        ([-0.2, -0.3, -0.25, -0.2], CLEAN_GAPS[:4], {}, "not shown", "4 seed"),
        ([-0.2, -0.3, -0.25, -0.2, -0.3], [-0.21, -0.29, -0.25, -0.2, -0.3], CONTROLS, "not shown", "interval"),
        ([-0.2, -0.3, -0.25, -0.2, -0.3], [-0.1, -0.2, -0.16, -0.1, -0.2], CONTROLS, "reversed", "interval"),
        ([-0.2, -0.3, -0.25, -0.2, -0.3], [], CONTROLS, "not shown", "clean twins is not measured"),
    ],
)
def test_what_stands_in_the_way_is_named(
    gaps: list[float], clean_gaps: list[float], controls: dict[str, list[float]], verdict: str, why: str
) -> None:
    found = judge_smoothing(gaps, clean_gaps, controls)
    assert found.conclusion == verdict
    assert any(why in reason for reason in found.missing)


@pytest.mark.parametrize(
    ("gaps", "clean_gaps", "controls", "message"),
    [
        ([], [], {}, "no gap"),
        (GAPS, CLEAN_GAPS[:3], {}, "3 gaps for 5 seeds"),
        (GAPS, CLEAN_GAPS, {"random_patch": []}, "random_patch: 0 gaps"),
        ([0.1, float("nan")], [], {}, "not finite"),
    ],
)
def test_numbers_that_cannot_be_judged_are_refused(
    gaps: list[float], clean_gaps: list[float], controls: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judge_smoothing(gaps, clean_gaps, controls)
