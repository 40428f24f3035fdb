"""A plane through the map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.values import Value
from analysis.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class MapSlice:
    """A grid of verdicts over the measured values of two axes: `verdicts[i][j]` is at `y[i]` and `x[j]`."""

    x_name: str
    y_name: str
    x: Sequence[Value]
    y: Sequence[Value]
    fixed: Mapping[str, Value]
    verdicts: Sequence[Sequence[Verdict]]

    def to_frame(self) -> pd.DataFrame:
        """One row a verdict."""
        return pd.DataFrame(
            {self.x_name: x, self.y_name: y} | verdict.row()
            for y, row in zip(self.y, self.verdicts, strict=True)
            for x, verdict in zip(self.x, row, strict=True)
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw it into `ax`, or into a figure of its own (`.figure` of what is returned)."""
        if ax is None:
            size = (3.2 + 1.0 * len(self.x), 1.4 + 0.7 * len(self.y))
            ax = Figure(figsize=size, dpi=150, layout="constrained").add_subplot()
        return plots.plot_slice(self, ax)
