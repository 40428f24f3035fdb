"""The table of the signal: what each measure at each epoch is worth for foretelling the verdict."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.signal.correlation import rank_correlations
from analysis.signal.measures import measured
from analysis.signal.null import adjusted_p_values
from analysis.signal.observations import with_poison
from analysis.signal.pairs import CellPairs, areas, pairs_by, pooled_pairs, unseen_areas

Floats = NDArray[np.float64]
DRAWS = 1000  # of the bootstrap
LEVEL = 0.9  # of its intervals
RATE, SETTING = ("poison_rate",), ("poison_rate", "setting")
FEWEST = 2  # cells that have a measure
COLUMNS = (
    *("measure", "needs", "epoch", "trials", "cells", "took hold"),
    *("AUC", "AUC within settings", "AUC within rates", "low", "high", "p"),
    *("correlation", "given the rate", "correlation low", "correlation high"),
    *("AUC unseen", "unseen low", "unseen high", "attacks"),
)


@dataclass(frozen=True)
class Cells:
    """The cells of observations: verdict (n,), poison rate (n,) and number of the attack (n,) of each."""

    takes_hold: Floats
    rates: Floats
    attacks: NDArray[np.int64]

    @classmethod
    def of(cls, observations: pd.DataFrame) -> "Cells":
        """Those of `observations`, whose cells are numbered without a gap."""
        first = observations.groupby("cell")[["takes_hold", "poison_rate", "attack"]].first()
        attacks = pd.factorize(first["attack"], sort=True)[0]
        return cls(first["takes_hold"].to_numpy(float), first["poison_rate"].to_numpy(float), attacks)

    def resampled(self) -> Floats:
        """(1 + DRAWS, n): how often each cell is there, once, then in samples of as many with replacement."""
        number = len(self.rates)
        drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), DRAWS)
        return np.concatenate([np.ones((1, number)), drawn])


@dataclass(frozen=True)
class Test:
    """A measure at an epoch: the observations that have it, and their pairs within poison rates."""

    name: str
    epoch: int
    frame: pd.DataFrame
    strata: list[CellPairs]


def signal_table(observations: pd.DataFrame) -> pd.DataFrame:
    """A row a measure and epoch, the best first: how well it foretells whether the backdoor takes hold at the end.

    AUC: the chance that a trial of a cell where the backdoor takes hold has the larger value than one of a cell where
    not; below 1/2 where it is the smaller. Within rates: of cells at the same poison rate alone; within settings: of
    cells that differ in the attack alone, which a measure of nothing but the setting does not tell apart. p: of AUC
    within rates, with verdicts permuted within rates, corrected for all rows. Correlation: Spearman's with attack
    success at the end, and the same given the poison rate. Unseen: the mean over attacks of the AUC within rates of
    each, in the direction that the other attacks have; `attacks` of them have pairs. Intervals of 90 % by resampling
    cells, whose trials are not independent. NaN where every cell is on one side.

    Args:
        observations: as `observe` makes them; one row a trial and epoch.
    """
    observations = with_poison(observations)
    if observations.empty:
        return pd.DataFrame(columns=COLUMNS)
    cells, tests = Cells.of(observations), list(_tests(observations))
    p_values = adjusted_p_values([test.strata for test in tests], cells.takes_hold, cells.rates)
    needs, drawn = measured(map(str, observations.columns)), cells.resampled()
    rows = [
        [
            *(test.name, needs[test.name], test.epoch, *_counts(test.frame)),
            *(*_areas(test, cells, drawn), float(p), *_correlations(test, drawn), *_unseen(test, cells, drawn)),
        ]
        for test, p in zip(tests, p_values, strict=True)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    worth = (table["AUC within rates"] - 0.5).abs().fillna(0)
    return table.assign(worth=worth).sort_values(["p", "worth"], ascending=[True, False]).drop(columns="worth")


def _tests(observations: pd.DataFrame) -> Iterator[Test]:
    for name in measured(map(str, observations.columns)):
        known = observations.dropna(subset=[name])
        for epoch, frame in known.groupby("epoch"):
            if frame["cell"].nunique() >= FEWEST:
                yield Test(name, int(str(epoch)), frame, pairs_by(frame, name, RATE))


def _counts(frame: pd.DataFrame) -> list[int]:
    return [len(frame), frame["cell"].nunique(), frame.loc[frame["takes_hold"].astype(bool), "cell"].nunique()]


def _areas(test: Test, cells: Cells, drawn: Floats) -> list[float]:
    strata = pooled_pairs(test.frame, test.name), pairs_by(test.frame, test.name, SETTING)
    told = [float(areas(one, cells.takes_hold)[0]) for one in strata]
    return [*told, *estimate(areas(test.strata, cells.takes_hold, drawn))]


def _correlations(test: Test, drawn: Floats) -> list[float]:
    plain, given = rank_correlations(test.frame, test.name, "success", drawn)
    return [float(plain[0]), *estimate(given)]


def _unseen(test: Test, cells: Cells, drawn: Floats) -> list[float]:
    told = unseen_areas(test.strata, cells.takes_hold, cells.attacks, drawn)
    if np.isnan(told[0]).all():
        return [np.nan, np.nan, np.nan, 0]
    means = np.nanmean(told[~np.isnan(told).all(1)], 1)
    return [*estimate(means), int((~np.isnan(told[0])).sum())]


def estimate(told: Floats) -> tuple[float, float, float]:
    """The first of `told` (1 + d,), which is of all cells once, and the interval of the others."""
    return float(told[0]), *interval(told[1:])


def interval(draws: Floats) -> tuple[float, float]:
    """The interval of `LEVEL` of draws (d,), of those that are numbers; NaN where none is."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high
