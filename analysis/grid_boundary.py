"""The boundary on every line of a grid along one axis, read off surrogates, with the width of its band."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.boundary import Boundary, read_line
from analysis.search_grid import Candidate, Grid, Group
from analysis.space_filling import is_filled
from analysis.surrogate import Surrogate
from raybd.errors import InputError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
STEPS = 101  # points of a line
COLUMNS = ("largest defended", "low", "high", "band")


@dataclass(frozen=True)
class GridBoundary:
    """Where surrogates are defended along one axis, on a line for each setting of the others."""

    along: str
    settings: list[dict[str, object]]  # of the other axes and of the group, one a line
    values: Floats  # (s,) of the axis
    defended: Flags  # (l, s) by the surrogates' means
    surely_defended: Flags  # (l, s) by their 90 % bands
    surely_undefended: Flags  # (l, s) likewise

    @property
    def decades(self) -> float:
        """Length of a line in decades."""
        return float(np.log10(self.values[-1] / self.values[0]))

    @property
    def band_widths(self) -> Floats:
        """(l,) decades of each line where the verdict is not sure."""
        widths: Floats = (~self.surely_defended & ~self.surely_undefended).mean(1) * self.decades
        return widths

    @property
    def widest_band(self) -> float:
        """Width of the widest band in decades."""
        return float(self.band_widths.max())

    def distances(self, other: "GridBoundary") -> Floats:
        """(l,) decades of each line that the one calls defended and the other does not, by their means.

        Where either has one boundary, as is usual, this is how far these are apart; a boundary beyond the end of a line
        counts as at its end.

        Raises:
            InputError: they are not the same lines.
        """
        if self.settings != other.settings or not np.allclose(self.values, other.values):
            raise InputError("boundaries on different lines cannot be compared")
        distances: Floats = (self.defended ^ other.defended).mean(1) * self.decades
        return distances

    def is_sure(self, grid: Grid, asked: Collection[Candidate], decades: float) -> bool:
        """Whether the band of every group is nowhere wider than `decades`, and no cell lies two steps from all `asked`.

        The second because a surface is as sure over an island or a hole that it has not seen.
        """
        groups = {tuple(setting[name] for name in grid.group_names) for setting in self.settings}
        return len(groups) == len(grid.groups) and self.widest_band <= decades and is_filled(grid, asked)

    def to_frame(self) -> pd.DataFrame:
        """One row a line: its largest defended value, all defended up to low, undefended from high, band in decades.

        NaN: none; infinite: not reached.
        """
        numbers = [(line.value, line.low, line.high) for line in self._lines()]
        rows = [dict(zip(COLUMNS, (*n, band), strict=True)) for n, band in zip(numbers, self.band_widths, strict=True)]
        return pd.DataFrame([setting | row for setting, row in zip(self.settings, rows, strict=True)])

    def holes(self) -> list[str]:
        """(l,) where on each line holes below the largest defended value begin."""
        return [str(line.row()["holes"]) for line in self._lines()]

    def _lines(self) -> list[Boundary]:
        flags = zip(self.defended, self.surely_defended, self.surely_undefended, strict=True)
        return [read_line(self.values, *one) for one in flags]


def grid_boundary(grid: Grid, surrogates: Mapping[Group, Surrogate], along: str) -> GridBoundary:
    """The boundary along an axis (by its full name) in every group that has a surrogate.

    Raises:
        InputError: the axis is none of the grid's, has no decades, or no group has a surrogate.
    """
    if along not in grid.axes or grid.axes[along][0] <= 0:
        usable = ", ".join(name for name, values in grid.axes.items() if values[0] > 0) or "none"
        raise InputError(f"{along} is no axis of two values above 0 here (such are: {usable})")
    if not surrogates:
        raise InputError("no surface: too few cells have finished with two seeds, or no clean twin has")
    values = np.geomspace(grid.axes[along][0], grid.axes[along][-1], STEPS)
    others = {name: known for name, known in grid.axes.items() if name != along}
    lines = [dict(zip(others, place, strict=True)) for place in product(*others.values())]
    points = grid.coordinates([line.get(name, v) for name in grid.axes] for line in lines for v in values.tolist())
    bands = [surrogate.bands(points) for surrogate in surrogates.values()]
    shape = (len(surrogates) * len(lines), STEPS)
    return GridBoundary(
        along=along,
        settings=[dict(zip(grid.group_names, group, strict=True)) | line for group in surrogates for line in lines],
        values=values,
        defended=np.concatenate([b.defended for b in bands]).reshape(shape),
        surely_defended=np.concatenate([b.surely_defended for b in bands]).reshape(shape),
        surely_undefended=np.concatenate([b.surely_undefended for b in bands]).reshape(shape),
    )
