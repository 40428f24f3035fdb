"""Trade-offs: measures beside each other at the end of training, a line a pair."""

import pandas as pd

from analysis.signal.correlation import rank_correlations
from analysis.signal.measures import measured
from analysis.signal.observations import with_poison
from analysis.signal.table import FEWEST, Cells, estimate
from raybd.utils.metric_names import ATTACK_SUCCESS, DECODABILITY, S1, SIGNATURE

COLUMNS = ("question", "first", "second", "trials", "cells", "correlation", "given the rate", "low", "high")
GAP = "smoothness/gap/triggered/sigma_*"
PAIRS = (
    ("does a trigger that is hard to see hide in information", "stealth/psnr", S1),
    ("does a trigger that is hard to see hide in information", "stealth/psnr", SIGNATURE),
    ("does a trigger that is hard to see hide in information", "stealth/ssim_reflect11", DECODABILITY),
    ("is a network smoother where the attack succeeds", GAP, ATTACK_SUCCESS),
    ("is a backdoor that is learnt early smoother", "curve/epoch50", GAP),
    ("does a backdoor that is learnt early succeed", "curve/epoch50", ATTACK_SUCCESS),
    ("does information grow with success", SIGNATURE, ATTACK_SUCCESS),
)


def trade_off_table(observations: pd.DataFrame) -> pd.DataFrame:
    """A row a pair of measures at the last epoch that has both: Spearman's correlation, and given the poison rate.

    Intervals of 90 % by resampling cells. Pairs that were not measured have no row.
    """
    observations = with_poison(observations)
    if observations.empty:
        return pd.DataFrame(columns=COLUMNS)
    last = observations.sort_values("epoch").groupby("trial").last().reset_index()
    drawn, rows = Cells.of(observations).resampled(), []
    for question, first, second in PAIRS:
        for one, other in [(a, b) for a in _named(last, first) for b in _named(last, second)]:
            known = last.dropna(subset=[one, other])
            if known["cell"].nunique() >= FEWEST:
                plain, given = rank_correlations(known, one, other, drawn)
                counts = [len(known), known["cell"].nunique()]
                rows.append([question, one, other, *counts, float(plain[0]), *estimate(given)])
    return pd.DataFrame(rows, columns=COLUMNS)


def _named(frame: pd.DataFrame, pattern: str) -> list[str]:
    """The columns of a measure, of several sigmas each."""
    start, star, _ = pattern.partition("*")
    return [name for name in measured(map(str, frame.columns)) if name == pattern or (star and name.startswith(start))]
