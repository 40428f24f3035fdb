"""The signal as text: sentences, the measures that tell the verdict best, and the trade-offs, in 80 columns."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.signal.measures import Needs
from analysis.signal.sentences import signal_sentences
from analysis.signal.trade_offs import trade_off_table
from analysis.signal.warning import early_warning
from analysis.sweep_summary import bullets
from analysis.text_table import align_columns
from raybd.errors import InputError

MOST = 25  # rows of the table that are shown
DEFENDER: tuple[Needs, ...] = ("nothing",)
EVERYTHING: tuple[Needs, ...] = ("nothing", "twin", "trigger")
HEADS = ("measure", "needs", "epoch", "AUC", "90 %", "p", "setting", "unseen")


def signal_text(observations: pd.DataFrame, table: pd.DataFrame) -> str:
    """Sentences and tables of observations and their `signal_table`, for a terminal."""
    parts, trade_offs = [bullets([*signal_sentences(table), *_warnings(observations)])], trade_off_table(observations)
    if len(table):
        title = (
            "Does it tell, at equal poison rates, whether the backdoor takes hold in the end?\n"
            "(setting: AUC at equal settings too; unseen: on attacks without a say in its\n"
            "direction; all columns: --csv)"
        )
        rest = f"\n... {len(table) - MOST} rows more: --csv" if len(table) > MOST else ""
        parts.append(f"{title}\n{align_columns([HEADS, *map(_line, table.head(MOST).to_dict('records'))])}{rest}")
    if len(trade_offs):
        parts.append("\n".join(map(_trade_off, trade_offs.to_dict("records"))))
    return "\n\n".join(parts)


def _warnings(observations: pd.DataFrame) -> list[str]:
    """What an early warning from a defender's measures is worth, and one from all measures; why there is none."""
    found = []
    for who, needs in (("A defender's early warning", DEFENDER), ("With the trigger and a clean training", EVERYTHING)):
        try:
            found.append(f"{who}: {early_warning(observations, needs=needs)}")
        except InputError as error:
            found.append(f"{who}: none, for {'; '.join(error.problems)}.")
    return found


def _line(row: Mapping[Hashable, Any]) -> list[str]:
    area = f"{row['low']:.2f} to {row['high']:.2f}"
    told = [row[name] for name in ("AUC within rates", "AUC within settings", "AUC unseen")]
    auc, setting, unseen = ("-" if pd.isna(value) else f"{value:.2f}" for value in told)
    return [
        *(str(row[name]) for name in ("measure", "needs", "epoch")),
        *(auc, area if auc != "-" else "-", f"{row['p']:.3f}", setting, unseen),
    ]


def _trade_off(row: Mapping[Hashable, Any]) -> str:
    told = f"{row['given the rate']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) given the rate"
    pair = f"{row['first']} with {row['second']}"
    return f"{row['question'].capitalize()}?\n  {pair}: {row['correlation']:+.2f}, {told}; {row['cells']} cells"
