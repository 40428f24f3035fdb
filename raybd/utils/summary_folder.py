"""SummaryFolder: where the summary of a sweep writes its tables, and its figures in the formats that were asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SummaryFolder:
    """A folder, and the formats of its figures beside PNG."""

    path: Path
    figure_formats: tuple[str, ...] = ()  # svg, pdf

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def save(self, figure: "Figure", name: str) -> list[Path]:
        """Write `figure` as NAME.png and in every other format; the files, the PNG first."""
        files = [self.path / f"{name}.{form}" for form in ("png", *self.figure_formats)]
        for file in files:
            figure.savefig(file)
        return files
