"""How well measures of a trial (information, stealthiness, smoothing) predict where the attack gets through."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from analysis.region_map import DefendedRegionMap
from analysis.signatures import MEASURES, smoothing_sigmas
from raybd.utils.metric_names import GAP
from raybd.utils.statistics import auroc

Floats = NDArray[np.float64]
DRAWS = 1000  # of the bootstrap
NAMES = {"isotropic": "isotropic signature", "I(T;Y) from": "I(T;Y), lower bound", "to": "I(T;Y), upper bound"}
HEAD = ["measure", "cells", "got through", "median there", "median elsewhere", "AUC", "low", "high", "rank correlation"]


def prediction_table(runs: pd.DataFrame, region_map: DefendedRegionMap) -> pd.DataFrame:
    """One row a measure, over the cells with poison: how well it tells where attack success is over the threshold.

    Attack success is in excess of the clean twins' throughout.

    A cell's value is the mean over its seeds. AUC: the chance that a cell where the attack gets through has the larger
    value of the two, ties half (Mann & Whitney 1947), with a 90 % bootstrap over cells; the rank correlation is
    Spearman's, with attack success. Cells share seeds and data, so the intervals are rather too narrow.
    """
    values = _measures(runs).set_index(runs["run_id"])
    cells = [c for c in region_map.cells if c.poisoned and c.seeds]
    success = np.array([c.verdict.attack_success_excess.value for c in cells])
    rows = []
    for name, column in values.items():
        means = np.array([column.reindex(list(c.verdict.evidence)).mean() for c in cells])
        known = ~np.isnan(means) & ~np.isnan(success)
        if known.any():
            through = success[known] > region_map.rule.max_attack_success
            rows.append([str(name), *_association(means[known], through, success[known])])
    return pd.DataFrame(rows, columns=HEAD)


def _measures(runs: pd.DataFrame) -> pd.DataFrame:
    """The measures of each run, by their names in tables."""
    names = {NAMES.get(measure.heading, measure.heading): measure.name for measure in MEASURES}
    names |= {f"smoothing gap at sigma {s}": f"{GAP}/triggered/sigma_{s}" for s in smoothing_sigmas(runs)}
    columns = {heading: runs[f"metrics.{name}"] for heading, name in names.items() if f"metrics.{name}" in runs}
    return pd.DataFrame(columns, index=runs.index).dropna(axis=1, how="all")


def _association(means: Floats, through: NDArray[np.bool_], success: Floats) -> list[object]:
    """The other columns of a measure's row: of cells' means (n,), where the attack gets through, its success."""
    there, elsewhere = means[through], means[~through]
    known = len(there) > 0 and len(elsewhere) > 0
    areas = [auroc(elsewhere, there), *_bootstrap(there, elsewhere)] if known else [float("nan")] * 3
    varied = np.ptp(means) > 0 and np.ptp(success) > 0
    rank = float(spearmanr(means, success).statistic) if varied else float("nan")
    return [len(means), len(there), _median(there), _median(elsewhere), *areas, rank]


def _bootstrap(there: Floats, elsewhere: Floats) -> tuple[float, float]:
    """90 % bootstrap interval of the AUC, over the cells of both sides."""
    rng = np.random.default_rng(0)
    wins = (there[:, None] > elsewhere) + 0.5 * (there[:, None] == elsewhere)
    draws = [[rng.choice(side, side) for side in wins.shape] for _ in range(DRAWS)]
    low, high = np.quantile([wins[np.ix_(*draw)].mean() for draw in draws], [0.05, 0.95]).tolist()
    return low, high


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
