"""ResistResult: what a training withstands and what would make it withstand more, in sentences and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from analysis.findings.wording import counted, joined
from analysis.html import frame_html
from analysis.resist.changes import Change
from analysis.resist.edge import Edge
from analysis.sweep_summary import SummaryTable, summary_text
from analysis.values import format_value
from raybd.scripts.config import Knobs

SHOWN = 3  # failures in a sentence


@dataclass(frozen=True, kw_only=True)
class ResistResult:
    """The resistance of a training.

    Attributes:
        edges: of each attack, how much poison the training withstands.
        change: the cheapest change of knobs that holds at the target rates, or the best found; None: not searched.
        targets: the poison rates that it must hold against.
        knobs_tried: settings of the knobs that were tried, the default left out.
        failures: why trainings failed, by their labels.
        trainings: how many were asked for.
        limit: attack success in excess of the clean twins', above which a backdoor takes hold.
        max_accuracy_loss: that a change may cost.
    """

    edges: Sequence[Edge]
    change: Change | None
    targets: Sequence[float]
    knobs_tried: int
    failures: Mapping[str, str]
    trainings: int
    limit: float
    max_accuracy_loss: float

    def sentences(self) -> list[str]:
        """What was found, the edges first."""
        found = [self._edge_sentence(edge) for edge in self.edges]
        if not self.edges:
            found.append("No training ran through, so nothing can be said of this recipe.")
        found += [self._change_sentence(self.change)] if self.change else self._untold()
        return found + self._failure_sentences()

    def to_frame(self) -> pd.DataFrame:
        """One row for each attack and poison rate that was tried."""
        rows = [
            {
                "attack": edge.attack,
                "poison_rate": edge.judged[count].count and _rate(edge, count),
                "images": count,
                "seeds": one.seeds,
                **one.excess.row("excess"),
                "takes_hold": {True: "yes", False: "no", None: "undecided"}[one.takes_hold],
            }
            for edge in self.edges
            for count, one in sorted(edge.judged.items())
        ]
        return pd.DataFrame(rows)

    def edge_frame(self) -> pd.DataFrame:
        """One row for each attack: its edge and the ends of the interval."""
        names = ("attack", "kind", "rate", "low", "high", "lowest", "highest", "trainings")
        return pd.DataFrame([{name: getattr(edge, name) for name in names} for edge in self.edges])

    def text(self, folder: Path) -> tuple[str, list[Path]]:
        """Sentences and tables of at most 80 columns, and the CSV files of these in `folder`."""
        head = ["attack", "edge", "low", "high", "tried", "trainings"]
        edges = [
            [e.attack, *_numbers(e), f"{_percent(e.lowest)} to {_percent(e.highest)}", str(e.trainings)]
            for e in self.edges
        ]
        cells = [["attack", "rate", "seeds", "excess in points (90 %)", "takes hold"], *self._cell_lines()]
        tables = [
            SummaryTable(
                "Poison rate at which each attack begins to take hold", [head, *edges] if edges else [], "edges.csv"
            ),
            SummaryTable("What was measured", cells if self.edges else [], "rates.csv"),
        ]
        return summary_text(self.sentences(), tables, folder)

    def __str__(self) -> str:
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(text)}</li>" for text in self.sentences())
        table = frame_html(self.edge_frame()) if self.edges else ""
        return f"<div><ul>{items}</ul>{table}</div>"

    def _cell_lines(self) -> list[list[str]]:
        return [
            [
                str(row["attack"]),
                _percent(float(row["poison_rate"])),
                str(row["seeds"]),
                f"{100 * row['excess']:.1f} ({100 * row['excess_low']:.1f} to {100 * row['excess_high']:.1f})",
                str(row["takes_hold"]),
            ]
            for row in self.to_frame().to_dict("records")
        ]

    def _edge_sentence(self, edge: Edge) -> str:
        tried = f"{_percent(edge.lowest)} to {_percent(edge.highest)} poison ({counted(edge.trainings, 'training')})"
        if edge.kind == "unknown":
            return f"{edge.attack}: nothing can be said, since {edge.note or 'no training finished'}."
        if edge.kind == "always":
            return (
                f"{edge.attack} takes hold at every rate tried, {tried}: its edge lies below {_percent(edge.lowest)}."
            )
        if edge.kind == "never":
            sure = all(one.takes_hold is False for one in edge.judged.values())
            hedge = "" if sure else ", though not every rate is decided by its seeds"
            return f"{edge.attack} takes hold at none of the rates tried, {tried}{hedge}."
        low = f"from {_percent(edge.low)}" if edge.low else "from below all rates tried"
        high = f"to {_percent(edge.high)}" if math.isfinite(edge.high) else "to above all rates tried"
        return (
            f"{edge.attack} does not take hold up to about {_percent(edge.rate)} poison (90 % interval {low} {high}; "
            f"tried: {tried})."
        )

    def _change_sentence(self, change: Change) -> str:
        rates = joined([_percent(rate) for rate in self.targets])
        against = f"every attack at {rates} poison"
        if change.verified and not change.changed:
            return f"As it stands the training holds against {against}: no knob needs a change."
        if change.verified:
            return f"The cheapest change found that holds against {against}: {_words(change)}; {self._cost(change)}."
        tried = counted(self.knobs_tried, "setting")
        found = f"No change of the knobs was found that holds against {against} ({tried} tried)"
        return f"{found}. The best, {_words(change)}, {self._shortfall(change)}; {self._cost(change)}."

    def _shortfall(self, change: Change) -> str:
        """Why a change is not proposed."""
        if change.excess.value > self.limit:
            return f"lets {change.worst} poison in (excess {change.excess.points})"
        if change.accuracy_loss.value > self.max_accuracy_loss:
            return "keeps them out, but loses more accuracy than it may"
        return f"keeps them out in the mean (excess {change.excess.points}), but its seeds do not make that sure"

    def _untold(self) -> list[str]:
        return [f"No setting of the knobs could be judged ({self.knobs_tried} tried)."] * bool(self.knobs_tried)

    def _cost(self, change: Change) -> str:
        seconds = "" if math.isnan(change.seconds) else f", and a training takes {change.seconds:.2g} times as long"
        return f"it costs {change.accuracy_loss.points} of clean accuracy{seconds} ({counted(change.seeds, 'seed')})"

    def _failure_sentences(self) -> list[str]:
        if not self.failures:
            return []
        some = "; ".join(f"{label}: {_first_line(error)}" for label, error in [*self.failures.items()][:SHOWN])
        return [f"{counted(len(self.failures), 'training')} failed: {some}"]


def _rate(edge: Edge, count: int) -> float:
    return edge.lowest * count / min(edge.judged)


def _numbers(edge: Edge) -> list[str]:
    if edge.kind != "edge":
        return [{"always": "below all", "never": "above all", "unknown": "unknown"}[edge.kind], "-", "-"]
    return [
        _percent(edge.rate),
        _percent(edge.low) if edge.low else "-",
        _percent(edge.high) if math.isfinite(edge.high) else "-",
    ]


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g}%"


def _words(change: Change) -> str:
    values: Knobs = tuple((name, value) for name, value in change.knobs if name in change.changed)
    return ", ".join(f"{name}={format_value(value)}" for name, value in values) or "the default"


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0] if error.strip() else "no reason is known"
