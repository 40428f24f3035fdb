"""The surface between cells: against scikit-learn, brute force and planted boundaries."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import Delaunay
from scipy.special import expit, logit

from analysis import DefendedRegionMap
from analysis.gaussian_process import GaussianProcess
from analysis.hull import hull_interval, in_hull
from analysis.logits import logits_of

LONG = pytest.mark.calibration
Z = 1.6448536269514722
RNG = np.random.default_rng(3)
POINTS = RNG.uniform(-2, 3, (14, 2))
VALUES = POINTS @ [1.0, -2.0] + np.sin(POINTS[:, 0])
NOISE = RNG.uniform(0.01, 0.1, 14)


def kernel(a, b, height, lengths):
    """Matern 5/2 by its formula: h (1 + r sqrt 5 + 5 r^2 / 3) exp(-r sqrt 5)."""
    r = np.sqrt((((a[:, None] - b[None]) / lengths) ** 2).sum(-1))
    return height * (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)


def by_hand(points, values, noise, queries, fitted):
    """Mean and deviation of the conditional normal, in the units of the values."""
    low, span, unit = points.min(0), np.ptp(points, axis=0), values.std()
    height, *lengths = np.exp(fitted.theta)
    x, q = (points - low) / span, (queries - low) / span
    inverse = np.linalg.inv(kernel(x, x, height, lengths) + np.diag(noise) / unit**2)
    cross = kernel(q, x, height, lengths)
    mean = values.mean() + unit * cross @ inverse @ ((values - values.mean()) / unit)
    variance = height - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    return mean, unit * np.sqrt(variance)


def test_the_surface_is_the_conditional_normal():
    surface, queries = GaussianProcess(POINTS, VALUES, NOISE), RNG.uniform(-1, 2, (5, 2))
    mean, deviation = surface.predict(queries)
    expected = by_hand(POINTS, VALUES, NOISE, queries, surface.kernel)
    assert mean == pytest.approx(expected[0], abs=1e-8)
    assert deviation == pytest.approx(expected[1], rel=1e-5)  # sqrt of a difference of large numbers


def test_units_of_axes_and_values_do_not_matter():
    one = GaussianProcess(POINTS, VALUES, NOISE)
    other = GaussianProcess(POINTS * [10, 0.1] + 5, 3 * VALUES - 7, 9 * NOISE)
    queries = RNG.uniform(-1, 2, (5, 2))
    (a, b), (c, d) = one.predict(queries), other.predict(queries * [10, 0.1] + 5)
    assert c == pytest.approx(3 * a - 7, abs=1e-3)
    assert d == pytest.approx(3 * b, abs=1e-3)


def test_leaving_one_out_equals_doing_without_it():
    surface = GaussianProcess(POINTS, VALUES, NOISE)
    mean, deviation = surface.leave_one_out()
    height, *lengths = np.exp(surface.kernel.theta)
    unit = VALUES.std()
    x = surface.points
    for i in range(len(VALUES)):
        rest = np.delete(np.arange(len(VALUES)), i)
        inverse = np.linalg.inv(kernel(x[rest], x[rest], height, lengths) + np.diag(NOISE[rest]) / unit**2)
        cross = kernel(x[[i]], x[rest], height, lengths)[0]
        expected = VALUES.mean() + unit * cross @ inverse @ ((VALUES[rest] - VALUES.mean()) / unit)
        variance = height - cross @ inverse @ cross + NOISE[i] / unit**2
        assert mean[i] == pytest.approx(expected, abs=1e-6)
        assert deviation[i] == pytest.approx(unit * np.sqrt(variance), abs=1e-6)


@pytest.mark.parametrize("d", [2, 3])
def test_the_hull_is_that_of_delaunay(d):
    points, queries = RNG.uniform(0, 1, (10 * d, d)), RNG.uniform(0, 1, (60, d))
    expected = Delaunay(points).find_simplex(queries) >= 0
    assert [in_hull(points, q) for q in queries] == expected.tolist()
    assert 5 < expected.sum() < 55


def test_a_flat_hull_and_its_ends():
    line = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    assert in_hull(line, np.array([0.25, 0.25]))
    assert not in_hull(line, np.array([0.25, 0.3]))
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert hull_interval(triangle, np.array([0.9, 0.25]), 0) == pytest.approx((0, 0.75), abs=1e-6)
    assert hull_interval(triangle, np.array([0.0, 1.1]), 0) is None


def test_logits_and_their_noise_by_hand():
    found = logits_of([(0.1, 0.3), (0.5,)], [(10.0, 10.0), (10.0,)])
    first = [np.log(1.5 / 9.5), np.log(3.5 / 7.5)]
    assert found.mean == pytest.approx([np.mean(first), 0.0])
    pooled = np.var(first, ddof=1)  # the only cell with two seeds
    binomial = [np.mean([1 / 1.5 + 1 / 9.5, 1 / 3.5 + 1 / 7.5]), 2 / 5.5]
    assert found.noise == pytest.approx([max(pooled, binomial[0]) / 2, max(pooled, binomial[1])])
    wide = logits_of([(0.1, 0.9), (0.5, 0.5)], [(1e6,) * 2] * 2)
    own = 2 * np.log(9) ** 2  # variance of two logits 2 log 9 apart
    pooled = own / 2
    assert wide.noise == pytest.approx([(4 * pooled + own) / 10, 4 * pooled / 10], rel=1e-3)
    assert logits_of([(0.1,), (0.2,)], [(10.0,), (10.0,)]) is None


GRIDS = {1: [np.geomspace(0.002, 0.2, 9)]}
GRIDS |= {2: [np.geomspace(0.002, 0.2, 5), np.geomspace(1e-4, 1e-1, 5)]}
GRIDS |= {3: [np.geomspace(0.002, 0.2, 4), np.geomspace(1e-4, 1e-1, 4), np.geomspace(0.25, 4, 3)]}
NAMES = ["poison_rate", "train.weight_decay", "model.width"]
MIDDLE = {"weight_decay": 10**-2.5, "width": 1.0}


def planted(d, draw, deviation=0.4, seeds=5):
    """A map whose attack success is the logistic of a smooth slope that meets 10 % at a known rate."""
    rng = np.random.default_rng([d, draw])
    steep, lean, bend = rng.uniform(2, 4), rng.uniform(-1.5, 1.5, 2), rng.uniform(-0.4, 0.4)
    edge = 10 ** rng.uniform(-2.2, -1.2)

    def level(at):
        x = np.log10(at[0] / edge)
        others = [np.log10(v) - np.log10(m) for v, m in zip(at[1:], MIDDLE.values(), strict=False)]
        return logit(0.1) + steep * x + bend * x * x + sum(k * v for k, v in zip(lean, others, strict=False))

    rows = []
    for at in np.stack(np.meshgrid(*GRIDS[d], indexing="ij"), -1).reshape(-1, d):
        success = expit(level(at) + deviation * rng.standard_normal(seeds))
        place = dict(zip(NAMES, at.tolist(), strict=False))
        rows += [place | {"seed": s, "attack_success": v, "clean_accuracy": 0.95} for s, v in enumerate(success)]
    twin = {"poison_rate": 0.0, "seed": 0, "attack_success": 0.0, "clean_accuracy": 0.95}
    rows.append(dict.fromkeys(NAMES[:d], 1.0) | twin)
    frame = pd.DataFrame(rows).assign(**{"attack.name": "badnets"})
    return DefendedRegionMap.from_frame(frame), edge


@pytest.mark.parametrize("d", [pytest.param(1, marks=LONG), 2, pytest.param(3, marks=LONG)])
def test_bands_of_planted_boundaries_hold_them_nine_times_in_ten(d):
    """At the planted edge the truth is 10 %: how often is that within the 90 % band, over 200 draws?"""
    held = 0
    for draw in range(200):
        found, edge = planted(d, draw)
        at = dict(list(MIDDLE.items())[: d - 1])
        verdict = found.query(interpolate=True, poison_rate=edge, **at)
        assert verdict.interpolated, verdict
        held += verdict.attack_success.low <= 0.1 <= verdict.attack_success.high
    assert 0.85 <= held / 200 <= 0.97


def test_the_boundary_on_the_surface_holds_the_planted_edge():
    held, width = 0, []
    for draw in range(60):
        found, edge = planted(1, draw)
        [row] = found.boundary(interpolate=True).to_dict("records")
        assert row["low"] <= row["largest defended"] <= row["high"]
        held += row["low"] <= edge * 1.01 and edge * 0.99 <= row["high"]  # the axis is read in steps of 1.2 %
        width.append(np.log10(row["high"] / row["low"]))
    assert held >= 49  # P(X <= 48) = 0.01 of Binomial(60, 0.9)
    assert np.median(width) < 0.35


def test_it_says_how_the_verdict_came_about():
    found, edge = planted(2, 0)
    inner = found.query(interpolate=True, poison_rate=edge / 2.5, weight_decay=MIDDLE["weight_decay"])
    assert (inner.status, inner.interpolated) == ("defended", True)
    assert "interpolated over 25 cells: both bands are clear of the thresholds" in inner.reason
    assert str(inner).startswith("defended (interpolated) at")
    assert len(inner.evidence) == 20  # 4 cells of 5 seeds
    outer = found.query(interpolate=True, poison_rate=edge * 3, weight_decay=MIDDLE["weight_decay"])
    assert (outer.status, outer.probability < 0.1) == ("backdoored", True)
    at_edge = found.query(interpolate=True, poison_rate=edge, weight_decay=MIDDLE["weight_decay"])
    assert at_edge.status == "uncertain"
    default = found.query(poison_rate=edge, weight_decay=MIDDLE["weight_decay"])
    assert (default.status, default.interpolated) == ("unmeasured", False)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"poison_rate": 0.3, "weight_decay": 1e-3}, "outside the hull"),
        ({"poison_rate": 0.05}, "say which weight_decay"),
        ({"poison_rate": 0.05, "weight_decay": 0.0}, "no place on its log scale"),
        ({"poison_rate": 0.05, "weight_decay": 1e-3, "attack": "blend"}, "attack=blend was not measured"),
    ],
)
def test_where_it_does_not_interpolate(asked, why):
    found, _ = planted(2, 0)
    verdict = found.query(interpolate=True, **asked)
    assert verdict.status == "unmeasured"
    assert why in verdict.reason


RATES = np.geomspace(1e-3, 0.1, 17)
HIGHEST, LOWEST = logit(0.95), logit(0.01)


def line(kind, draw):
    """A map of one axis with a planted hole or island, and whether log10 of a rate is defended in truth."""
    rng = np.random.default_rng(draw)
    middle, half, edge = rng.uniform(-2.4, -1.9), rng.uniform(0.13, 0.3), rng.uniform(-1.5, -1.2)

    def inside(x):  # decades inside the region, negative outside
        hole, island = np.minimum(np.abs(x - middle) - half, edge - x), half - np.abs(x - middle)
        return hole if kind == "hole" else np.maximum(-2.8 - x, island)

    rows = [{"poison_rate": 0.0, "seed": s, "attack_success": 0.0} for s in range(3)]
    for rate in RATES.tolist():
        level = np.clip(logit(0.1) - 12 * inside(np.log10(rate)), LOWEST, HIGHEST)
        seeds = enumerate(expit(level + 0.3 * rng.standard_normal(3)).tolist())
        rows += [{"poison_rate": rate, "seed": s, "attack_success": v} for s, v in seeds]
    frame = pd.DataFrame(rows).assign(clean_accuracy=0.95, triggered_count=900.0, clean_count=1000.0)
    return DefendedRegionMap.from_frame(frame.assign(**{"attack.name": "badnets"})), lambda x: inside(x) > 0


@pytest.mark.parametrize("kind", ["hole", "island"])
def test_low_ends_at_the_first_gap_and_high_begins_after_the_last_defended(kind):
    """Over 40 draws of each: never past a cell on the other side, past the truth as often as 90 % bands may be."""
    x, past, held = np.linspace(-3, -1, 2001), [], []
    for draw in range(40):
        found, defended = line(kind, draw)
        [row] = found.boundary(interpolate=True).to_dict("records")
        first_gap, last_defended = x[np.argmin(defended(x))], x[defended(x)][-1]
        beyond = [rate for rate in RATES if not defended(np.log10(rate))]
        assert not row["low"] >= min(beyond), (draw, row)
        assert row["high"] > max(rate for rate in RATES if defended(np.log10(rate))), (draw, row)
        assert row["holes"], draw
        past.append(np.log10(row["low"]) > first_gap + 0.005)  # the axis is read in steps of 0.005 decades
        held.append(np.log10(row["high"]) >= last_defended - 0.005)
    assert sum(past) <= 4
    assert sum(held) >= 36


def test_a_rate_whose_trials_failed_ends_the_sure_run():
    """Its place on the axis holds no measured cell: the surface over it is a guess, and so is what comes after."""
    rows = [{"poison_rate": 0.0, "seed": s, "attack_success": 0.0, "clean_accuracy": 0.95} for s in range(3)]
    for rate in (0.001, 0.002, 0.004, 0.008, 0.016):
        failed = {"attack_success": np.nan, "clean_accuracy": np.nan, "status": "FAILED", "error": "out of memory"}
        good = {"clean_accuracy": 0.95, "status": "FINISHED"}
        for s, success in enumerate((0.002, 0.004, 0.006)):
            rows.append(
                {"poison_rate": rate, "seed": s, "attack_success": success} | (failed if rate == 0.004 else good)
            )
    found = DefendedRegionMap.from_frame(pd.DataFrame(rows).assign(**{"attack.name": "badnets"}))
    [row] = found.boundary(interpolate=True).to_dict("records")
    assert (row["largest defended"], row["low"]) == pytest.approx((0.016, 0.002), rel=0.01)
    beside = found.query(interpolate=True, poison_rate=0.003)
    assert (beside.status, len(beside.failures)) == ("uncertain", 3)
    assert found.query(interpolate=True, poison_rate=0.0015).status == "defended"
    assert found.query(interpolate=True, poison_rate=0.012).status == "defended"


def over_twins(baseline, settings=(1.0, 2.0, 4.0)):
    """Attack success 5 points over that of the clean twins, wherever it is."""
    rows = []
    for width in settings:
        for rate in (0.0, 0.01, 0.02, 0.04):
            own = baseline[width] + 0.05 * (rate > 0)
            place = {"model.width": width, "poison_rate": rate, "clean_accuracy": 0.95}
            rows += [place | {"seed": s, "attack_success": own + stray} for s, stray in enumerate((-0.004, 0.0, 0.004))]
    frame = pd.DataFrame(rows).assign(clean_count=1000.0, triggered_count=900.0)
    return DefendedRegionMap.from_frame(frame.assign(**{"attack.name": "badnets"}))


def test_the_surface_is_judged_by_the_excess_over_the_clean_twins():
    """Raw rates of 5 to 25 %, all 5 points over the twins: the surface is defended, as its cells are."""
    baseline = {1.0: 0.2, 2.0: 0.1, 4.0: 0.01}
    found = over_twins(baseline)
    assert {cell.verdict.status for cell in found.cells if cell.poisoned} == {"defended"}
    for width, own in ((1.1, 0.2), (1.9, 0.1), (3.9, 0.01)):
        verdict = found.query(interpolate=True, poison_rate=0.03, width=width)
        assert verdict.status == "defended", verdict
        assert verdict.attack_success.value - verdict.attack_success_excess.value == pytest.approx(own, abs=0.003)
        assert verdict.accuracy_loss.value == pytest.approx(0, abs=0.003)
    assert found.boundary(interpolate=True)["low"].tolist() == pytest.approx([0.04] * 3)
