"""Does what a trial measures say where the attack gets through? Information and smoothing against the map."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from analysis.region_map import DefendedRegionMap
from analysis.signatures import COLUMNS, GAP, excess, sigmas_of

DRAWS = 1000  # of the bootstrap
HEAD = ["measure", "cells", "got through", "median there", "median elsewhere", "AUC", "low", "high", "rank correlation"]


def prediction_table(runs: pd.DataFrame, region_map: DefendedRegionMap) -> pd.DataFrame:
    """One row a measure, over the cells with poison: how well it tells where attack success is over the threshold.

    A cell's value is the mean over its seeds. AUC: the chance that a cell where the attack gets through has the larger
    value of the two, ties half (Mann & Whitney 1947), with a 90 % bootstrap over cells; the rank correlation is
    Spearman's, with attack success. Cells share seeds and data, so the intervals are rather too narrow.
    """
    values = measures(runs).set_index(runs["run_id"])
    cells = [c for c in region_map.cells if c.poisoned and c.seeds]
    success = np.array([c.verdict.attack_success.value for c in cells])
    rows = []
    for name, column in values.items():
        means = np.array([column.reindex(list(c.verdict.evidence)).mean() for c in cells])
        known = ~np.isnan(means) & ~np.isnan(success)
        if known.any():
            through = success[known] > region_map.rule.max_attack_success
            rows.append({"measure": str(name)} | _told(means[known], through, success[known]))
    return pd.DataFrame(rows, columns=HEAD)


def measures(runs: pd.DataFrame) -> pd.DataFrame:
    """What was measured of each run, by the names people know."""
    found: dict[str, pd.Series] = {}
    for heading, kind in {"I(X;T) excess": "xt", "I(T;Y) excess": "ty"}.items():
        found[heading] = excess(runs, f"mi/{kind}")
    names = {"I(S;T)": "mi/st/backdoor"} | {heading: own for heading, (own, _) in COLUMNS.items()}
    names |= {
        f"smoothing gap at sigma {s}": f"{GAP.removeprefix('metrics.')}/triggered/sigma_{s}" for s in sigmas_of(runs)
    }
    found |= {heading: runs[f"metrics.{name}"] for heading, name in names.items() if f"metrics.{name}" in runs}
    return pd.DataFrame(found, index=runs.index).dropna(axis=1, how="all")


def auc(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """(R - n (n + 1) / 2) / (n m) of the rank sum R of the n positive among n + m `values`; NaN if n or m is 0."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(values)[positive].sum() - n * (n + 1) / 2) / (n * m))


def _told(means: NDArray[np.float64], through: NDArray[np.bool_], success: NDArray[np.float64]) -> dict[str, object]:
    rng, sides = np.random.default_rng(0), [np.flatnonzero(through), np.flatnonzero(~through)]
    low = high = float("nan")
    if all(len(side) for side in sides):
        draws = [np.concatenate([rng.choice(side, len(side)) for side in sides]) for _ in range(DRAWS)]
        low, high = np.quantile([auc(means[d], through[d]) for d in draws], [0.05, 0.95]).tolist()
    varied = np.ptp(means) > 0 and np.ptp(success) > 0
    numbers = [
        len(means),
        int(through.sum()),
        *(_median(means[side]) for side in sides),
        auc(means, through),
        low,
        high,
    ]
    rank = float(spearmanr(means, success).statistic) if varied else float("nan")
    return dict(zip(HEAD[1:], [*numbers, rank], strict=True))


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
