"""The spread of seeds, moderated over cells: against closed forms and planted variances."""

import numpy as np
import pytest
from scipy import stats

from analysis.spread import Lending, SpreadPrior, fit_spread

FREEDOM = np.full(4000, 4.0)


def drawn(prior, variance, rng):
    """Sample variances of cells whose own are scaled inverse chi-squared."""
    own = variance * prior / rng.chisquare(prior, len(FREEDOM)) if np.isfinite(prior) else variance
    return own * rng.chisquare(FREEDOM) / FREEDOM


@pytest.mark.parametrize("freedom", [3.0, 8.0, 30.0])
def test_a_planted_prior_is_found(freedom):
    found = fit_spread(drawn(freedom, 0.04, np.random.default_rng(1)), FREEDOM)
    assert found.variance == pytest.approx(0.04, rel=0.06)
    assert found.freedom == pytest.approx(freedom, rel=0.35)
    assert found.total == 16_000


def test_of_cells_with_one_variance_it_is_pooled():
    values = drawn(np.inf, 0.04, np.random.default_rng(3))[:20]
    values = values[np.argsort(values)][5:15]  # less spread than chance has
    found = fit_spread(values, FREEDOM[:10])
    assert found == SpreadPrior(pytest.approx(values.mean()), np.inf, 40)
    variance, freedom = found.moderate(values, FREEDOM[:10])
    assert variance == pytest.approx(values.mean(), rel=1e-6)
    assert freedom.tolist() == [40] * 10


def test_moderation_by_hand():
    prior = SpreadPrior(2.0, 6.0, 100.0)
    variance, freedom = prior.moderate(np.array([1.0, 2.0, 300.0, 7.0]), np.array([2.0, 4.0, 2.0, 0.0]))
    assert variance == pytest.approx([(6 * 2 + 2) / 8, 2.0, 300.0, 2.0])  # 300 is over F(0.99; 2, 6) = 10.9 times 2
    assert freedom == pytest.approx([8, 10, 2, 6])
    assert stats.f(2, 6).ppf(0.99) == pytest.approx(10.92, abs=0.01)


def test_cells_without_spread_or_alone_tell_nothing():
    for variance in ([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        assert np.isnan(fit_spread(np.array(variance), np.full(3, 2.0)).variance)
    variance, freedom = SpreadPrior().moderate(np.array([1.0, np.nan]), np.array([2.0, 0.0]))
    assert (variance[0], freedom[0]) == (1.0, 2.0)
    assert np.isnan(variance[1])


def test_groups_do_not_lend_to_each_other():
    variance, freedom = np.array([1.0, 1.1, 9.0, 9.1, np.nan, np.nan]), np.array([9.0, 9, 9, 9, 0, 0])
    lending = Lending(np.array([0, 0, 1, 1, 0, 1]), np.ones(6, bool))
    found = lending.moderated(variance, freedom, np.ones(6), np.array([np.nan] * 5 + [0.5]))
    assert found.variance == pytest.approx([1.05, 1.05, 9.05, 9.05, 1.05, 0.5])  # the last: as stated


def test_a_t_test_with_lent_spread_has_its_level():
    """Means of three seeds, truth 0, of cells whose variances differ: |t| is beyond its 5 % quantile once in 10."""
    rng = np.random.default_rng(7)
    sigma = np.sqrt(0.04 * 6 / rng.chisquare(6, 4000))
    seeds = sigma[:, None] * rng.standard_normal((4000, 3))
    own, freedom = seeds.var(1, ddof=1), np.full(4000, 2.0)
    variance, lent = fit_spread(own, freedom).moderate(own, freedom)
    beyond = np.abs(seeds.mean(1)) / np.sqrt(variance / 3) > stats.t.ppf(0.95, lent)
    assert beyond.mean() == pytest.approx(0.1, abs=0.015)
    assert (lent > 5).mean() > 0.95
