"""How statuses are drawn: a colour and a hatch each, legible in grey and to the colour-blind."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.verdict import Status

INK = "#1c2733"
GREY = "#8b9099"


@dataclass(frozen=True)
class CellStyle:
    """Colours and hatch of a cell."""

    face: str
    hatch: str
    line: str  # the colour of the hatch
    text: str


STYLES: Mapping[Status, CellStyle] = {
    "defended": CellStyle("#b9e4dc", "", "#b9e4dc", INK),
    "kept_out": CellStyle("#f3dc8f", "\\\\\\\\", "#cfa93a", INK),
    "backdoored": CellStyle("#b4500a", "////", "#d98a4e", "#ffffff"),
    "uncertain": CellStyle("#c9ccd1", "...", GREY, INK),
    "unmeasured": CellStyle("#ffffff", "xx", "#c4c8ce", "#5b6470"),
}
