"""Clean accuracy of every cell: its mean, and how far it lies under the reference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.contrast import SLACK, Contrast, Estimates, contrast, pair
from analysis.records import Trials
from analysis.reference import Policy, best_of, reference_settings
from analysis.samples import Flags, Moments, Sample, pools
from analysis.spread import SURE, Integers, Lending, Spread, moderate_all
from analysis.statistics import wilson
from analysis.twins import accuracy_twins
from analysis.values import Value

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """Of each of c cells, NaN where nothing tells it."""

    rate: Estimates
    reference: Floats
    loss: Estimates  # under the reference
    lost: Floats  # probability that the loss is above what is allowed
    lent: Flags  # whether the spread of other cells tells of that of its seeds
    stated: Flags  # whether how far its seeds stray is stated, not measured


def judge_accuracy(sample: Sample, lending: Lending, policy: Policy, limit: float, stated: float) -> Accuracy:
    """Clean accuracy and its loss in every cell of a map.

    Args:
        sample: the trials.
        lending: how the spread of cells is moderated.
        policy: what the reference is.
        limit: the largest loss allowed.
        stated: deviation of the logit of accuracy between seeds, for cells of one seed; NaN: lent by the others.
    """
    rates = sample.column("clean_accuracy")
    own = sample.moments(rates)
    variance = (stated * own.mean * (1 - own.mean)) ** 2
    spread = lending.moderated(own.variance, own.freedom, np.ones(sample.cells), variance)
    raw = Contrast(own.mean, np.sqrt(spread.variance / np.maximum(own.number, 1)), spread.freedom)
    if policy == "twin":
        loss, reference = _under_twins(sample, rates, lending, variance)
    else:
        loss, reference = _under_best(sample, policy, raw, Spreads(own, lending, stated))
    by_hand = spread.freedom == SURE
    lent, rate = (spread.freedom > own.freedom) & ~by_hand, _with_images(sample, own, raw)
    return Accuracy(rate, reference, loss.interval(-1, 1), loss.above(limit + SLACK), lent, by_hand)


def _under_twins(sample: Sample, rates: Floats, lending: Lending, stated: Floats) -> tuple[Contrast, Floats]:
    twins, one = accuracy_twins(sample.trials), np.ones(sample.cells)
    pairs = pair(sample, twins)
    gain = contrast(sample, rates, twins, lending, one, one, stated)
    known = np.where(pairs.any, 1.0, np.nan)
    return Contrast(-gain.value * known, gain.error * known, gain.freedom), pairs.mean * known


@dataclass(frozen=True)
class Spreads:
    """What tells of the spread of the settings that a reference is the best of."""

    own: Moments  # of the cells
    lending: Lending
    stated: float

    def of(self, mean: Floats, variance: Floats, number: Floats, pool: Integers) -> Spread:
        """The spread of settings (k,) with the mean and the variance of so many seeds, in the pools of cells."""
        priors = self.lending.priors(self.own.variance, self.own.freedom, np.ones(len(self.own.mean)))
        lent, stated = moderate_all(priors, pool, variance, number - 1), (self.stated * mean * (1 - mean)) ** 2
        told = (number == 1) & ~np.isnan(stated)
        return Spread(np.where(told, stated, lent.variance), np.where(told, SURE, lent.freedom))


def best_references(trials: Trials, policy: Policy, spreads: Spreads) -> tuple[Floats, Floats, Floats]:
    """(t,) the reference of each trial, its squared error and the degrees of freedom of that; NaN without one."""
    found = reference_settings(trials, policy)
    table = found.settings
    mean, variance, number = (table[name].to_numpy(float) for name in ("mean", "variance", "seeds"))
    spread = spreads.of(mean, variance, number, table["pool"].to_numpy(np.intp))
    groups = table["group"].to_numpy(np.intp)
    best = np.full((found.group.max() + 1, 3), np.nan)
    for group in np.unique(groups):
        own = groups == group
        best[group] = *best_of(mean[own], (spread.variance / number)[own]), spread.freedom[own].max()
    by_trial: Floats = best[found.group].T
    return by_trial[0], by_trial[1], by_trial[2]


def best_twins(sample: Sample, lending: Lending, stated: float) -> dict[Value, float]:
    """For each data set the reference accuracy, that of the best clean twins.

    The keys are data sets, or (source, data set) where there are several sources.
    """
    spreads = Spreads(sample.moments(sample.column("clean_accuracy")), lending, stated)
    accuracy = best_references(sample.trials, "best", spreads)[0]
    several = len(sample.trials.values.get("source", [])) > 1
    result: dict[Value, float] = {}
    for row in np.unique(pools(sample.trials), return_index=True)[1].tolist():
        source, data = (sample.trials.value(name, row) for name in ("source", "data"))
        if not np.isnan(accuracy[row]):
            result[(source, data) if several else data] = float(accuracy[row])
    return result


def _under_best(sample: Sample, policy: Policy, own: Contrast, spreads: Spreads) -> tuple[Contrast, Floats]:
    reference, squared, freedom = (column[sample.first] for column in best_references(sample.trials, policy, spreads))
    return Contrast(reference - own.value, *_sum(own.error**2, own.freedom, squared, freedom)), reference


def _sum(first: Floats, first_freedom: Floats, second: Floats, second_freedom: Floats) -> tuple[Floats, Floats]:
    """Standard error of a sum from squared errors and their degrees of freedom (Welch, Biometrika 34 (1947) 28)."""
    total = first + second
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (first**2 / first_freedom + second**2 / second_freedom)
    return np.sqrt(total), np.where(total > 0, freedom, first_freedom)


def _with_images(sample: Sample, own: Moments, raw: Contrast) -> Estimates:
    """The interval over seeds; Wilson's over test images where seeds tell nothing, and [0, 1] where these do not."""
    images = sample.images("clean_count")
    untold = (np.isnan(raw.error) | (raw.error == 0)) & (images > 0)
    ends = wilson(np.where(untold, own.mean * images, 0.5), np.where(untold, images, 1.0))
    return raw.interval(0, 1).where(untold, Estimates(own.mean, *ends))
