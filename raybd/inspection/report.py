"""Inspection: what was found of a network, as a table, in words, in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from raybd.inspection.figures import JUDGED, LOW, MEANING
from raybd.inspection.repairs import Repair
from raybd.inspection.verdict import Verdict, rank_p
from raybd.utils.html import number, table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("figure", "value", "clean_min", "clean_median", "clean_max", "suspicious", "p")


@dataclass(frozen=True)
class Inspection:
    """The figures of a network and of clean ones, the verdict, and the repairs with their figures."""

    label: str
    verdict: Verdict
    figures: dict[str, float]
    clean: Sequence[dict[str, float]]
    about_clean: str  # how the clean networks were trained
    limits: Sequence[str]  # what this cannot tell
    repairs: Sequence[Repair] = ()
    repaired: dict[str, dict[str, float]] = field(default_factory=dict)  # figures after each repair

    def to_frame(self) -> "pd.DataFrame":
        """A row a figure: its value, that of the clean networks, its rank p-value, its value after each repair."""
        import pandas as pd  # slow to import

        return pd.DataFrame(self._rows(), columns=self._columns()).set_index("figure")

    def _columns(self) -> list[str]:
        return [*COLUMNS, *(f"after {repair}" for repair in self.repaired)]

    def _rows(self) -> list[dict[str, object]]:
        return [self._row(name) for name in MEANING if name in self.figures]

    def _row(self, name: str) -> dict[str, object]:
        known = sorted(one[name] for one in self.clean if name in one)
        side = JUDGED.get(name, 1 if name == "attack_success" else 0)
        counted = known and name != "neural_cleanse/class"
        row: dict[str, object] = {"figure": name, "value": self.figures[name]}
        row |= (
            {"clean_min": known[0], "clean_median": known[len(known) // 2], "clean_max": known[-1]} if counted else {}
        )
        row |= (
            {"suspicious": "low" if side == LOW else "high", "p": rank_p(self.figures[name], known, side)}
            if (side and counted)
            else {}
        )
        return row | {f"after {repair}": found.get(name) for repair, found in self.repaired.items()}

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.verdict}", "", *self._table(), "", f"clean networks: {self.about_clean}"]
        for repair in self.repairs:
            cost = ", ".join(f"{name.removeprefix('defence/')} {value:.3g}" for name, value in repair.numbers.items())
            lines.append(f"{repair.name}: {cost}" + (f"; written to {repair.file}" if repair.file else ""))
        return "\n".join([*lines, "", "What this cannot tell:", *(f"- {limit}" for limit in self.limits)])

    def _table(self) -> list[str]:
        """The figures in columns, and what they mean."""
        rows, names = self._rows(), self._columns()
        cells = [names] + [[number(row.get(name)) for name in names] for row in rows]
        widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
        ]
        return [*lines, "", *(f"{name}: {MEANING[name]}" for name in MEANING if name in self.figures)]

    def _repr_html_(self) -> str:
        rows = [{name: row.get(name) for name in self._columns()} for row in self._rows()]
        limits = "".join(f"<li>{escape(limit)}</li>" for limit in self.limits)
        said = f"<p><b>{escape(self.label)}</b>: {escape(str(self.verdict))}</p>"
        return f"<div>{said}{table(rows)}<p>What this cannot tell:</p><ul>{limits}</ul></div>"
