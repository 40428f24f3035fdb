"""Contrasts: by how much a rate of each cell differs from that of its clean twins, and how sure that is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysis.samples import Flags, Sample
from analysis.spread import Lending
from analysis.statistics import TAIL
from analysis.twins import Twins
from analysis.verdict import Estimate

Floats = NDArray[np.float64]

SLACK = 1e-9  # a rate on the threshold is within it, whatever its last bits


@dataclass(frozen=True)
class Contrast:
    """A difference of means of each of c cells, as Student's t around its estimate; NaN where nothing tells it."""

    value: Floats
    error: Floats  # standard error; NaN where nothing tells the spread
    freedom: Floats

    def above(self, limit: float | Floats) -> Floats:
        """(c,) probability that the difference is above `limit`, given the data and a flat prior."""
        distance = self.value - limit
        with np.errstate(divide="ignore", invalid="ignore"):
            chance: Floats = stdtr(self.freedom, distance / self.error)
        chance = np.where(self.error > 0, chance, distance > 0)
        return np.where(np.isnan(self.value + self.error), np.nan, chance)

    def interval(self, low: float, high: float) -> "Estimates":
        """The 90 % intervals, within [low, high]; the whole of it where nothing is told."""
        half = np.where(self.error > 0, stdtrit(np.maximum(self.freedom, 1e-3), 1 - TAIL) * self.error, self.error)
        ends = np.nan_to_num(self.value - half, nan=low), np.nan_to_num(self.value + half, nan=high)
        return Estimates(self.value, ends[0].clip(low, high), ends[1].clip(low, high))


@dataclass(frozen=True)
class Estimates:
    """A number of each of c cells (NaN where it is not known) and the ends of its 90 % interval."""

    value: Floats
    low: Floats
    high: Floats

    def __getitem__(self, cell: int) -> Estimate:
        return Estimate(float(self.value[cell]), float(self.low[cell]), float(self.high[cell]))

    def hull(self, other: "Estimates") -> "Estimates":
        """The same values, with intervals that hold those of `other` too."""
        return Estimates(self.value, np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def less(self, number: Floats) -> "Estimates":
        """Each less `number` (c,)."""
        return Estimates(self.value - number, self.low - number, self.high - number)

    def where(self, chosen: Flags, other: "Estimates") -> "Estimates":
        """These, but `other` where `chosen`."""
        pairs = ((self.value, other.value), (self.low, other.low), (self.high, other.high))
        value, low, high = (np.where(chosen, there, here) for here, there in pairs)
        return Estimates(value, low, high)


@dataclass(frozen=True)
class Pairing:
    """The twins of each of c cells: how many, their mean, and whether every seed has its own."""

    paired: Flags
    number: Floats
    mean: Floats  # 0 without a twin

    @property
    def any(self) -> Flags:
        """(c,) whether there is a twin."""
        return self.number > 0


def pair(sample: Sample, twins: Twins) -> Pairing:
    """The twins of each cell: those of its own seeds if each has one, else all of its setting."""
    own = sample.moments(np.where(sample.done, twins.own, np.nan))
    total = np.bincount(sample.cell, sample.done, sample.cells)
    paired = (own.number == total) & (total > 0)
    number = np.nan_to_num(twins.number[sample.first])
    mean = np.where(paired, own.mean, twins.mean[sample.first])
    return Pairing(paired, number, np.where(number > 0, mean, 0.0))


def contrast(
    sample: Sample, rates: Floats, twins: Twins, lending: Lending, scale: Floats, twin_scale: Floats, stated: Floats
) -> Contrast:
    """Mean of `rates` over the seeds of each cell less that of its twins; less 0 without one.

    Paired by seed where every seed has its twin; else the two means, with the errors of both.

    Args:
        sample: the trials.
        rates: (t,) of each.
        twins: of each.
        lending: how the spread of cells is moderated.
        scale: (c,) in what proportion variances of seeds are taken to stand to each other.
        twin_scale: (c,) likewise of the twins, 0 where there are none.
        stated: (c,) variance of a seed where a cell has one; NaN: what the other cells lend.
    """
    pairs = pair(sample, twins)
    own, both = sample.moments(rates), sample.moments(rates - twins.own)
    alone = lending.moderated(own.variance, own.freedom, scale, stated)
    joint = scale + twin_scale
    together = lending.among(pairs.paired).moderated(both.variance, own.freedom, joint, stated * joint / scale)
    other = alone.variance * twin_scale / (scale * np.maximum(pairs.number, 1))
    squared = np.where(pairs.paired, together.variance, alone.variance) / np.maximum(own.number, 1)
    squared = np.where(pairs.paired, squared, squared + other)
    freedom = np.where(pairs.paired, together.freedom, alone.freedom)
    return Contrast(own.mean - pairs.mean, np.sqrt(squared), freedom)
