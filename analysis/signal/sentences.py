"""What the table of the signal says, in sentences."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.signal.measures import RANDOM

SURE = 0.05  # a p value below it is called a signal
WHO = {
    "nothing": "Of what a defender sees",
    "twin": "With a clean training beside",
    "trigger": "Knowing the trigger",
}


def signal_sentences(table: pd.DataFrame) -> list[str]:
    """How many measures tell the verdict before the end, the best of each kind and when, and what the control did."""
    if table.empty:
        return ["Nothing can be told of signals: no setting with poison has both a verdict and measures."]
    if table["epoch"].nunique() < 2:
        return ["Nothing can be foretold: measures were taken at one epoch alone."]
    before = table[table["epoch"] < table["epoch"].max()]
    own = before[before["measure"] != RANDOM]
    if own["AUC within rates"].isna().all():
        return ["Nothing can be told of signals: at each poison rate every setting is on one side of the verdict."]
    sure = own[own["p"] < SURE]
    head = (
        f"{sure['measure'].nunique()} of {own['measure'].nunique()} measures tell before the end, at equal poison "
        f"rates, whether the backdoor takes hold (p < {SURE:g}, corrected for {len(table)} tests)."
    )
    return [head, *(_best(own, needs) for needs in WHO if (own["needs"] == needs).any()), *_control(table)]


def _best(table: pd.DataFrame, needs: str) -> str:
    kind = table[table["needs"] == needs].dropna(subset=["AUC within rates"])
    sure = kind[kind["p"] < SURE]
    if sure.empty:
        return f"{WHO[needs]}, none of {kind['measure'].nunique()} does."
    rows = sure.to_dict("records")
    best = max(rows, key=lambda row: abs(row["AUC within rates"] - 0.5))
    first = min(rows, key=lambda row: row["epoch"])
    early = f"; the earliest is {_place(first)}" if first["epoch"] < best["epoch"] else ""
    return f"{WHO[needs]}, the best is {_place(best)}{early}."


def _place(row: Mapping[Hashable, Any]) -> str:
    unseen = f", {row['AUC unseen']:.2f} on attacks unseen" if pd.notna(row["AUC unseen"]) else ""
    area = f"AUC {row['AUC within rates']:.2f}, {row['low']:.2f} to {row['high']:.2f}{unseen}"
    return f"{row['measure']} at epoch {row['epoch']} ({area})"


def _control(table: pd.DataFrame) -> Sequence[str]:
    control = table[table["measure"] == RANDOM]
    if control.empty:
        return []
    least = control["p"].min()
    worth = "worthless, as it must be" if least >= SURE else "NOT worthless: distrust this table"
    return [f"The control, a random number, is {worth} (least p {least:.2f})."]
