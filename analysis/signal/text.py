"""The signal as text: sentences, the measures that tell the verdict best, and the trade-offs, in 80 columns."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.signal.sentences import signal_sentences
from analysis.sweep_summary import bullets
from analysis.text_table import align_columns

MOST = 25  # rows of the table that are shown
HEADS = ("measure", "needs", "epoch", "AUC", "90 %", "p", "setting", "unseen", "r")


def signal_text(table: pd.DataFrame, trade_offs: pd.DataFrame) -> str:
    """Sentences and tables for a terminal."""
    parts = [bullets(signal_sentences(table))]
    if len(table):
        title = (
            "Does it tell, at equal poison rates, whether the backdoor takes hold in the end?\n"
            "(setting: AUC at equal settings too; unseen: on attacks that had no say in its\n"
            "direction; r: rank correlation with attack success, given the rate)"
        )
        rest = f"\n... {len(table) - MOST} rows more: --csv" if len(table) > MOST else ""
        parts.append(f"{title}\n{align_columns([HEADS, *map(_line, table.head(MOST).to_dict('records'))])}{rest}")
    if len(trade_offs):
        parts.append("\n".join(map(_trade_off, trade_offs.to_dict("records"))))
    return "\n\n".join(parts)


def _line(row: Mapping[Hashable, Any]) -> list[str]:
    area = f"{row['low']:.2f} to {row['high']:.2f}"
    told = [row[name] for name in ("AUC within rates", "AUC within settings", "AUC unseen", "given the rate")]
    auc, setting, unseen, correlation = ("-" if pd.isna(value) else f"{value:.2f}" for value in told)
    return [
        *(str(row[name]) for name in ("measure", "needs", "epoch")),
        *(auc, area if auc != "-" else "-", f"{row['p']:.3f}", setting, unseen, correlation),
    ]


def _trade_off(row: Mapping[Hashable, Any]) -> str:
    told = f"{row['given the rate']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) given the rate"
    pair = f"{row['first']} with {row['second']}"
    return f"{row['question'].capitalize()}?\n  {pair}: {row['correlation']:+.2f}, {told}; {row['cells']} cells"
