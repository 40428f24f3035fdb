"""The boundary on every line of a grid: where it is, how wide its band, how far from another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.active_search import Grid, Group
from analysis.interpolate import Patch, clear
from raybd.errors import InputError

Flags = NDArray[np.bool_]
STEPS = 101  # points of a line
COLUMNS = ("largest defended", "low", "high", "band")


@dataclass(frozen=True)
class Lines:
    """The verdicts of surfaces along one axis, a line for each setting of the others."""

    along: str
    settings: list[dict[str, object]]  # of the other axes and of the group, one a line
    values: NDArray[np.float64]  # (s,) of the axis
    defended: Flags  # (l, s) by the mean of the surfaces
    sure: Flags  # (l, s) defended by the 90 % bands
    lost: Flags  # (l, s) undefended by them

    @property
    def length(self) -> float:
        """Decades from end to end."""
        return float(np.log10(self.values[-1] / self.values[0]))

    @property
    def bands(self) -> NDArray[np.float64]:
        """(l,) decades of each line where the verdict is not sure."""
        found: NDArray[np.float64] = (~self.sure & ~self.lost).mean(1) * self.length
        return found

    @property
    def widest(self) -> float:
        """Decades of the widest band."""
        return float(self.bands.max())

    def distances(self, other: "Lines") -> NDArray[np.float64]:
        """(l,) decades of each line that the one calls defended and the other does not, by their means.

        Where either has one edge, as is usual, this is how far the edges are apart; an edge beyond the end of a line
        counts as at its end.

        Raises:
            InputError: they are not the same lines.
        """
        if self.settings != other.settings or not np.allclose(self.values, other.values):
            raise InputError("boundaries on different lines cannot be compared")
        found: NDArray[np.float64] = (self.defended ^ other.defended).mean(1) * self.length
        return found

    def table(self) -> pd.DataFrame:
        """One row a line: its largest defended value, all defended up to low, undefended from high, band in decades.

        NaN: none; infinite: not reached.
        """
        rows = []
        for i, setting in enumerate(self.settings):
            edges = (_last(self.values, self.defended[i]), _before(self.values, self.sure[i]))
            numbers = (*edges, _from(self.values, self.lost[i]), self.bands[i])
            rows.append(setting | dict(zip(COLUMNS, numbers, strict=True)))
        return pd.DataFrame(rows)


def lines(grid: Grid, patches: Mapping[Group, Patch], along: str) -> Lines:
    """The lines along an axis (by its full name) of every group that has surfaces.

    Raises:
        InputError: the axis is none of the grid's, has no decades, or no group has surfaces.
    """
    if along not in grid.axes or grid.axes[along][0] <= 0:
        usable = ", ".join(name for name, values in grid.axes.items() if values[0] > 0) or "none"
        raise InputError(f"{along} is no axis of two values above 0 here (such are: {usable})")
    if not patches:
        raise InputError("no surface: too few cells have finished with two seeds, or no clean twin has")
    values = np.geomspace(grid.axes[along][0], grid.axes[along][-1], STEPS)
    others = {name: found for name, found in grid.axes.items() if name != along}
    settings, flags = [], []
    for group, patch in patches.items():
        at = [dict(zip(others, place, strict=True)) for place in product(*others.values())]
        places = [[one.get(name, value) for name in grid.axes] for one in at for value in values.tolist()]
        success, accuracy = patch.bands(grid.coordinates(places))
        middle = (success[0] <= patch.rule.max_attack_success) & (accuracy[0] >= patch.floor)
        flags.append(np.stack([middle, *clear(success, accuracy, patch.floor, patch.rule)]).reshape(3, len(at), STEPS))
        settings += [dict(zip(grid.names, group, strict=True)) | one for one in at]
    defended, sure, lost = np.concatenate(flags, axis=1)
    return Lines(along, settings, values, defended, sure, lost)


def _last(values: NDArray[np.float64], flags: Flags) -> float:
    return float(values[flags][-1]) if flags.any() else float("nan")


def _before(values: NDArray[np.float64], flags: Flags) -> float:
    """The last value of the run of flags from the start; NaN if there is none."""
    run = int(np.argmin(flags)) if not flags.all() else len(flags)
    return float(values[run - 1]) if run else float("nan")


def _from(values: NDArray[np.float64], flags: Flags) -> float:
    """The first value of the run of flags to the end; infinite if there is none."""
    run = int(np.argmin(flags[::-1])) if not flags.all() else len(flags)
    return float(values[len(flags) - run]) if run else float("inf")
