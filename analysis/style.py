"""How statuses are drawn: a colour and a hatch each, legible in grey and to the colour-blind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half a second to import, and most questions draw nothing
    from matplotlib.figure import Figure

INK = "#1c2733"
GREY = "#8b9099"


@dataclass(frozen=True)
class CellStyle:
    """Colours and hatch of a cell."""

    face: str
    hatch: str
    line: str  # the colour of the hatch
    text: str


STYLES: Mapping[str, CellStyle] = {
    "defended": CellStyle("#b9e4dc", "", "#b9e4dc", INK),
    "kept_out": CellStyle("#f3dc8f", "\\\\\\\\", "#cfa93a", INK),
    "backdoored": CellStyle("#b4500a", "////", "#d98a4e", "#ffffff"),
    "uncertain": CellStyle("#c9ccd1", "...", GREY, INK),
    "unmeasured": CellStyle("#ffffff", "xx", "#c4c8ce", "#5b6470"),
}


def add_legend(figure: "Figure") -> None:
    """The names of what is drawn in the first axes of a figure of constrained layout, below all plots."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    wide = 0.08 * max(map(len, labels), default=1) + 0.6  # inches of a name with its mark
    columns = max(1, int(figure.get_figwidth() / wide))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
