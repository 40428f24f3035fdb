"""Pictures of the map. A status is a colour and a hatch: legible in grey and to the colour-blind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Patch, Rectangle

from analysis.values import Value, distinct, written
from analysis.verdict import STATUSES, Status, Verdict

if TYPE_CHECKING:
    from analysis.region_map import DefendedRegionMap
    from analysis.slices import MapSlice

INK = "#1c2733"
DPI = 150
LEFT, RIGHT, TOP, BOTTOM = 0.85, 0.15, 1.2, 0.85  # margins of the whole map in inches
ROW, NARROWEST = 0.46, 0.7  # a cell's height and least width in inches
GAP, TITLE = 0.25, 0.34  # between panels, across and up


@dataclass(frozen=True)
class Look:
    """How a status is drawn."""

    face: str
    hatch: str
    line: str  # the colour of the hatch
    text: str


LOOKS: Mapping[Status, Look] = {
    "defended": Look("#b9e4dc", "", "#b9e4dc", INK),
    "undefended": Look("#b4500a", "////", "#d98a4e", "#ffffff"),
    "uncertain": Look("#c9ccd1", "...", "#8b9099", INK),
    "unmeasured": Look("#ffffff", "xx", "#c4c8ce", "#5b6470"),
}


def plot_slice(plane: "MapSlice", ax: Axes, legend: bool = True) -> Axes:
    """Draw a grid of verdicts into `ax`: in each cell attack success (ASR) and clean accuracy (ACC)."""
    for i, row in enumerate(plane.verdicts):
        for j, verdict in enumerate(row):
            _draw_cell(ax, j, i, verdict)
    ax.set_xlim(-0.5, len(plane.x) - 0.5)
    ax.set_ylim(-0.5, len(plane.y) - 0.5)
    ax.set_xticks(range(len(plane.x)), [written(v) for v in plane.x])
    ax.set_yticks(range(len(plane.y)), [written(v) for v in plane.y])
    ax.set_xlabel(plane.x_name)
    ax.set_ylabel(plane.y_name)
    ax.set_title(named(plane.fixed), fontsize=10, color=INK, loc="left", pad=4)
    ax.tick_params(length=0, labelsize=9, colors=INK)
    ax.spines[:].set_color("#8b9099")
    if legend:
        ax.legend(handles=_handles(), loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, handleheight=1.4)
    return ax


def plot_map(region_map: "DefendedRegionMap", width: float = 8.0) -> Figure:
    """The whole map: a row of panels for each attack, a column for each value of a second complexity axis.

    In a panel x is the first complexity axis (those of training come first) and y the poison rate.
    Axes beyond these are pooled conservatively, and the title says so.

    Args:
        region_map: what to draw.
        width: of the figure in inches, at 150 dots an inch; more where the cells would be too narrow to read.
    """
    rows = panels(region_map)
    plane = rows[0][0]
    figure, grid = _sheet(len(rows), len(rows[0]), len(plane.x), len(plane.y), width)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            plot_slice(panel, figure.add_subplot(grid[i, j]), legend=False).label_outer()
    _write_around(figure, region_map, plane)
    return figure


def _sheet(rows: int, columns: int, across: int, up: int, width: float) -> tuple[Figure, GridSpec]:
    """A figure with room for `rows` x `columns` panels of `up` x `across` cells."""
    cell = max(NARROWEST, ((width - LEFT - RIGHT + GAP) / columns - GAP) / across)
    wide = LEFT + RIGHT + columns * (cell * across + GAP) - GAP
    high = TOP + BOTTOM + rows * (ROW * up + TITLE) - TITLE
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=LEFT / wide,
        right=1 - RIGHT / wide,
        top=1 - TOP / high,
        bottom=BOTTOM / high,
        wspace=GAP / (cell * across),
        hspace=TITLE / (ROW * up),
    )
    return figure, grid


def _draw_cell(ax: Axes, x: float, y: float, verdict: Verdict) -> None:
    look = LOOKS[verdict.status]
    corner = (x - 0.5, y - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, facecolor=look.face, edgecolor=look.line, hatch=look.hatch, linewidth=0))
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=2))
    text = f"ASR {_percent(verdict.attack_success.value)}\nACC {_percent(verdict.clean_accuracy.value)}"
    behind = {"facecolor": look.face, "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    ax.text(
        x,
        y,
        "not\nmeasured" if verdict.status == "unmeasured" else text,
        ha="center",
        va="center",
        fontsize=7.5,
        color=look.text,
        bbox=behind,
    )


def _percent(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{rate:.1%}"


def _handles() -> list[Patch]:
    def patch(status: Status) -> Patch:
        look = LOOKS[status]
        edge = look.line if look.hatch else "#8b9099"
        return Patch(facecolor=look.face, edgecolor=edge, hatch=look.hatch, label=status, linewidth=0.5)

    return [patch(status) for status in STATUSES]


def panels(region_map: "DefendedRegionMap") -> list[list["MapSlice"]]:
    """Slices with the poison rate as y; without a further axis x is the attack, in one panel."""
    names = region_map.names
    attack, rate = names.short["attack.name"], names.short["poison_rate"]
    free = [name for name in region_map.axes if name not in (attack, rate)]
    if not free:
        return [[region_map.slice(attack, rate)]]
    columns: Sequence[Mapping[str, Value]] = [{}]
    if len(free) > 1:
        columns = [{free[1]: value} for value in region_map.axes[free[1]]]
    drawn = [c.setting for c in region_map.cells if c.setting["attack.name"] != "none"]
    drawn = drawn or [c.setting for c in region_map.cells]
    attacks, rates = distinct(s["attack.name"] for s in drawn), {s["poison_rate"] for s in drawn}
    return [
        [_only(rates, region_map.slice(free[0], rate, **{attack: a}, **column)) for column in columns] for a in attacks
    ]


def _only(rates: set[Value], plane: "MapSlice") -> "MapSlice":
    """The rows at `rates`: clean twins that stand under attack none give no row to the attacks."""
    rows = [(y, row) for y, row in zip(plane.y, plane.verdicts, strict=True) if y in rates]
    return replace(plane, y=[y for y, _ in rows], verdicts=[row for _, row in rows])


def _write_around(figure: Figure, region_map: "DefendedRegionMap", plane: "MapSlice") -> None:
    high, left = figure.get_figheight(), LEFT / figure.get_figwidth()
    question, facts = "Where does the backdoor not take hold?", "\n".join(subtitle(region_map, plane))
    figure.text(left, 1 - 0.12 / high, question, fontsize=15, fontweight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.43 / high, facts, fontsize=8.5, color="#4a5563", va="top", linespacing=1.25)
    figure.legend(
        handles=_handles(),
        loc="lower left",
        bbox_to_anchor=(left, 0.1 / high),
        ncols=len(STATUSES),
        frameon=False,
        fontsize=9,
        handleheight=1.4,
        borderaxespad=0,
        borderpad=0,
    )


def subtitle(region_map: "DefendedRegionMap", plane: "MapSlice") -> list[str]:
    """What was trained and how much of it; what counts as defended; what was pooled."""
    what = [written(v) for n in ("data", "model.name") for v in region_map.measured(n)]
    pooled = [n for n in region_map.axes if n not in (plane.x_name, plane.y_name, *plane.fixed)]
    return [
        f"{', '.join(what)}: {_effort(region_map)}" if what else _effort(region_map),
        _rule(region_map),
        *([f"pooled over {', '.join(pooled)}: defended where every value is"] if pooled else []),
    ]


def _effort(region_map: "DefendedRegionMap") -> str:
    numbers = sorted(len(cell.clean_accuracy) for cell in region_map.cells if cell.clean_accuracy)
    seeds = " to ".join(map(str, dict.fromkeys([numbers[0], numbers[-1]]))) if numbers else "0"
    failures = sum(cell.failures for cell in region_map.cells)
    return f"{sum(numbers)} trials, {seeds} seeds a cell" + (f"; {failures} more failed" if failures else "")


def _rule(region_map: "DefendedRegionMap") -> str:
    rule, floors = (
        region_map.rule,
        [v - region_map.rule.max_accuracy_loss for v in region_map.reference.values()],
    )
    loss = f"{100 * rule.max_accuracy_loss:g} points under the best clean twins"
    floor = f"≥ {floors[0]:.1%} ({loss})" if len(floors) == 1 else f"at most {loss}"
    return f"defended: attack success (ASR) ≤ {100 * rule.max_attack_success:g}%, clean accuracy (ACC) {floor}"


def named(fixed: Mapping[str, Value]) -> str:
    """A setting as people write it."""
    return ", ".join(f"{name}={written(value)}" for name, value in fixed.items())
