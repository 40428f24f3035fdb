"""Attack success of every cell: its mean, and how far it exceeds that of the clean twins.

Nothing but the attack itself is charged to it: a clean network of few classes, or one that a trigger confuses, sends
images to the target class too. The spread between seeds grows from the ends to the middle, with a power of p (1 - p)
that the map itself tells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from analysis.contrast import SLACK, Contrast, Estimates, Pairing, contrast, pair
from analysis.samples import DEFAULT_COUNT, Flags, Moments, Sample
from analysis.spread import Lending
from analysis.twins import success_twins

Floats = NDArray[np.float64]
SMALLEST = 1e-9


@dataclass(frozen=True)
class Success:
    """Of each of c cells, NaN where nothing tells it."""

    rate: Estimates
    excess: Estimates  # above the mean of the twins, or above 0
    above: Floats  # probability that the excess is above what is allowed
    within: Floats  # probability that it is not; the two leave a rest where rates and logits disagree
    twins: Pairing


def judge_success(sample: Sample, lending: Lending, limit: float, stated: float) -> Success:
    """Attack success and its excess in every cell of a map.

    Student's t, once in rates and once in logits (with the error of the rate over the slope p (1 - p)): an interval is
    the hull of the two, and a probability the smaller. Rates are too sure near 0 and 1, where seeds that stray do so
    one way; logits are where seeds stray by a constant.

    Args:
        sample: the trials.
        lending: how the spread of cells is moderated.
        limit: the largest excess allowed.
        stated: deviation of the logit of attack success between seeds, for cells of one seed; NaN: lent by the others.
    """
    rates, twins = sample.column("attack_success"), success_twins(sample.trials)
    own, pairs, images = sample.moments(rates), pair(sample, twins), sample.images("triggered_count")
    each = np.where(np.isnan(images), DEFAULT_COUNT, images / np.maximum(own.number, 1))
    slope, twin_slope = (_slope(_smooth(mean, each)) for mean in (own.mean, pairs.mean))
    power, stated_variance = _growth(own, slope, lending.lends), stated**2 * slope**2
    scale, twin_scale = slope**power, twin_slope**power
    spread = lending.moderated(own.variance, own.freedom, scale, stated_variance)
    difference = contrast(sample, rates, twins, lending, scale, np.where(pairs.any, twin_scale, 0.0), stated_variance)
    floor = _slope(_smooth(own.mean, images)) / images
    rate = _at_least(Contrast(own.mean, np.sqrt(spread.variance / np.maximum(own.number, 1)), spread.freedom), floor)
    return _judged(rate, _at_least(difference, floor), _smooth(own.mean, each), pairs, limit)


def _judged(rate: Contrast, excess: Contrast, smooth: Floats, twins: Pairing, limit: float) -> Success:
    """Attack success and its excess, in rates and in logits (of the rates `smooth`)."""
    threshold = (twins.mean + limit + SLACK).clip(SMALLEST, 1 - SMALLEST)
    in_logits = np.where(twins.mean + limit >= 1, 0.0, _logits(smooth, excess).above(logit(threshold)))
    chances = np.stack([excess.above(limit + SLACK), in_logits])
    shifted = _in_rates(_logits(smooth, excess)).less(twins.mean)
    return Success(
        rate=rate.interval(0, 1).hull(_in_rates(_logits(smooth, rate))),
        excess=excess.interval(-1, 1).hull(shifted),
        above=chances.min(0),
        within=1 - chances.max(0),
        twins=twins,
    )


def _growth(own: Moments, slope: Floats, lends: Flags) -> float:
    """The power of p (1 - p) with which the variance between seeds grows: 0, as a deviation in rates, to 2, in logits.

    Least squares of the logarithms of both over the cells that lend, within [0, 2]; 2 where they tell nothing.
    """
    used = lends & (own.freedom > 0) & (own.variance > 0)
    level, spread = np.log(slope[used]), np.log(own.variance[used])
    if len(level) < 3 or level.var() == 0:
        return 2.0
    return float(np.clip(np.cov(level, spread)[0, 1] / level.var(ddof=1), 0, 2))


def _logits(rate: Floats, error: Contrast) -> Contrast:
    """The logits of rates (c,), with the errors that the rates have."""
    return Contrast(logit(rate), error.error / _slope(rate), error.freedom)


def _in_rates(logits: Contrast) -> Estimates:
    found = logits.interval(-np.inf, np.inf)
    return Estimates(expit(found.value), expit(found.low), expit(found.high))


def _smooth(rate: Floats, images: Floats) -> Floats:
    """The rate, at least half an image of all away from 0 and 1."""
    least = 0.5 / (images + 1)
    return rate.clip(least, 1 - least)


def _slope(rate: Floats) -> Floats:
    return rate * (1 - rate)


def _at_least(found: Contrast, floor: Floats) -> Contrast:
    """The same with an error of at least the root of `floor` (c,), the variance by test images; NaN: not known."""
    squared = np.where(np.isnan(floor), found.error**2, np.maximum(found.error**2, floor))
    return Contrast(found.value, np.sqrt(squared), found.freedom)
