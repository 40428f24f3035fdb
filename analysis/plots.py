"""The whole map as one figure: a panel for each attack and value of a second complexity axis."""

from collections.abc import Sequence
from textwrap import wrap

from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from analysis.frame_checks import is_real
from analysis.panels import panels, subtitle
from analysis.region_map import DefendedRegionMap
from analysis.slices import MapSlice, legend_handles
from analysis.style import INK
from analysis.verdict import STATUSES
from raybd.errors import InputError

DPI = 150
WIDEST = 400  # inches: Matplotlib draws no more than 65,536 dots
LEFT, RIGHT, TOP, BOTTOM = 0.85, 0.15, 0.76, 0.85  # margins of the whole map in inches, at the top without its facts
LINE, CHARACTER = 0.148, 0.064  # height of a line of facts and width of its characters in inches
ROW_HEIGHT, MIN_WIDTH = 0.46, 0.7  # a cell's height and least width in inches
GAP, TITLE = 0.25, 0.34  # between panels, across and up


def plot_map(region_map: DefendedRegionMap, width: float = 8.0) -> Figure:
    """The whole map: a row of panels for each attack, a column for each value of a second complexity axis.

    In a panel x is the first complexity axis (those of training come first) and y the poison rate.
    Axes beyond these are pooled conservatively, and the title says so.

    Args:
        region_map: what to draw.
        width: of the figure in inches, at 150 dots an inch; more where the cells would be too narrow to read.
    """
    if not isinstance(region_map, DefendedRegionMap):
        raise InputError(f"a DefendedRegionMap is drawn, got {type(region_map).__name__}")
    if not (is_real(width) and 0 < width <= WIDEST):
        raise InputError(f"width must be in (0, {WIDEST}] inches, got {width!r}")
    rows = panels(region_map.table)
    first = rows[0][0]
    figure, grid, facts = _panel_grid(rows, subtitle(region_map.table, first), width)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            panel.plot(figure.add_subplot(grid[i, j]), legend=False).label_outer()
    _annotate(figure, facts)
    return figure


def _panel_grid(
    panels: Sequence[Sequence[MapSlice]], facts: Sequence[str], width: float
) -> tuple[Figure, GridSpec, list[str]]:
    """A figure with room for rows of `panels` and for the `facts` above them, and these in lines of its width."""
    rows, columns, across, up = len(panels), len(panels[0]), len(panels[0][0].x), len(panels[0][0].y)
    cell = max(MIN_WIDTH, ((width - LEFT - RIGHT + GAP) / columns - GAP) / across)
    wide = LEFT + RIGHT + columns * (cell * across + GAP) - GAP
    lines = [line for fact in facts for line in wrap(fact, int((wide - LEFT - RIGHT) / CHARACTER))]
    top = TOP + LINE * len(lines)
    high = top + BOTTOM + rows * (ROW_HEIGHT * up + TITLE) - TITLE
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        rows,
        columns,
        left=LEFT / wide,
        right=1 - RIGHT / wide,
        top=1 - top / high,
        bottom=BOTTOM / high,
        wspace=GAP / (cell * across),
        hspace=TITLE / (ROW_HEIGHT * up),
    )
    return figure, grid, lines


def _annotate(figure: Figure, facts: Sequence[str]) -> None:
    high, left = figure.get_figheight(), LEFT / figure.get_figwidth()
    question = "Where does the backdoor not take hold?"
    figure.text(left, 1 - 0.12 / high, question, fontsize=15, fontweight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.43 / high, "\n".join(facts), fontsize=8.5, color="#4a5563", va="top", linespacing=1.25)
    figure.legend(
        handles=legend_handles(),
        loc="lower left",
        bbox_to_anchor=(left, 0.1 / high),
        ncols=len(STATUSES),
        frameon=False,
        fontsize=9,
        handleheight=1.4,
        borderaxespad=0,
        borderpad=0,
    )
