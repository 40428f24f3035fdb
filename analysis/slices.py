"""Slices of the map: the verdicts over two of its axes, as a table and as a picture."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from analysis import svg
from analysis.cell_table import CellTable
from analysis.style import GREY, INK, STYLES
from analysis.values import Value, format_value
from analysis.verdict import STATUSES, Verdict
from raybd.errors import InputError

if TYPE_CHECKING:  # half a second to import, and a question to a map draws nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch


@dataclass(frozen=True, kw_only=True)
class MapSlice:
    """A grid of verdicts over the measured values of two axes: `verdicts[i][j]` is at `y[i]` and `x[j]`."""

    x_name: str
    y_name: str
    x: Sequence[Value]
    y: Sequence[Value]
    fixed: Mapping[str, Value]
    verdicts: Sequence[Sequence[Verdict]]

    @property
    def title(self) -> str:
        """The setting of the other axes."""
        return ", ".join(f"{name}={format_value(value)}" for name, value in self.fixed.items())

    def to_frame(self) -> pd.DataFrame:
        """One row a verdict."""
        return pd.DataFrame(
            {self.x_name: x, self.y_name: y} | verdict.row()
            for y, row in zip(self.y, self.verdicts, strict=True)
            for x, verdict in zip(self.x, row, strict=True)
        )

    def to_html(self) -> str:
        """The grid under its title; the page needs `svg.patterns` once."""
        drawn = svg.grid((self.x_name, self.x), (self.y_name, self.y), self.verdicts)
        title = f"<div><b>{escape(self.title)}</b></div>" * bool(self.title)
        return f'<div style="overflow-x:auto">{title}{drawn}</div>'

    def _repr_html_(self) -> str:
        return f"<div>{svg.patterns()}{svg.legend()}{self.to_html()}</div>"

    def plot(self, ax: "Axes | None" = None, legend: bool = True) -> "Axes":
        """Draw attack success (ASR) and clean accuracy (ACC) of each cell into `ax`, or into a figure of its own.

        That figure is `.figure` of what is returned; in a notebook it is pyplot's, which shows it below the cell.
        """
        from matplotlib.axes import Axes

        if not isinstance(ax, Axes | None):
            raise InputError(f"ax must be matplotlib's Axes, got {ax!r}")
        if ax is None:
            size = (3.2 + 1.0 * len(self.x), 1.4 + 0.7 * len(self.y))
            ax = _new_figure(size).add_subplot()
        for i, row in enumerate(self.verdicts):
            for j, verdict in enumerate(row):
                _draw_cell(ax, j, i, verdict)
        self._label(ax)
        if legend:
            handles = legend_handles()
            ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, handleheight=1.4)
        return ax

    def _label(self, ax: "Axes") -> None:
        ax.set_xlim(-0.5, len(self.x) - 0.5)
        ax.set_ylim(-0.5, len(self.y) - 0.5)
        ax.set_xticks(range(len(self.x)), [format_value(v) for v in self.x])
        ax.set_yticks(range(len(self.y)), [format_value(v) for v in self.y])
        ax.set_xlabel(self.x_name)
        ax.set_ylabel(self.y_name)
        ax.set_title(self.title, fontsize=10, color=INK, loc="left", pad=4)
        ax.tick_params(length=0, labelsize=9, colors=INK)
        ax.spines[:].set_color(GREY)


def map_slice(table: CellTable, x: str, y: str, fixed: Mapping[str, Value]) -> MapSlice:
    """The slice over the measured values of `x` and `y`, by short or full names, the other axes at `fixed` or pooled.

    Raises:
        InputError: there is no such axis, or `x` and `y` are not two.
    """
    (x_full, y_full), held = table.names.full_names([x, y]), table.names.full_setting(fixed)
    if x_full == y_full or {x_full, y_full} & set(held):
        raise InputError(f"x={x} and y={y} must be two axes, and not fixed")
    xs, ys = table.measured(x_full), table.measured(y_full)
    return MapSlice(
        x_name=table.names.short[x_full],
        y_name=table.names.short[y_full],
        x=xs,
        y=ys,
        fixed=table.names.short_setting(held),
        verdicts=[[table.answer({**held, x_full: u, y_full: v}) for u in xs] for v in ys],
    )


def _new_figure(size: tuple[float, float]) -> "Figure":
    """A constrained figure of `size` in inches: pyplot's where IPython runs, which shows it, else one of its own."""
    from matplotlib.figure import Figure

    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return Figure(figsize=size, dpi=150, layout="constrained")
    from matplotlib import pyplot as plt

    return plt.figure(figsize=size, dpi=150, layout="constrained")


def legend_handles() -> "list[Patch]":
    """A patch for each status."""
    from matplotlib.patches import Patch

    return [
        Patch(
            facecolor=(style := STYLES[status]).face,
            edgecolor=style.line if style.hatch else GREY,
            hatch=style.hatch,
            label=status,
            linewidth=0.5,
        )
        for status in STATUSES
    ]


def _draw_cell(ax: "Axes", x: float, y: float, verdict: Verdict) -> None:
    from matplotlib.patches import Rectangle

    style = STYLES[verdict.status]
    corner = (x - 0.5, y - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, facecolor=style.face, edgecolor=style.line, hatch=style.hatch, linewidth=0))
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=2))
    rates = f"ASR {_percent(verdict.attack_success.value)}\nACC {_percent(verdict.clean_accuracy.value)}"
    text = "not\nmeasured" if verdict.status == "unmeasured" else rates
    box = {"facecolor": style.face, "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=style.text, bbox=box)


def _percent(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{rate:.1%}"
