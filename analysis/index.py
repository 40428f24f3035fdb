"""Finds the cells that match a question, and says why there is none."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cell
from analysis.values import MISSING, Value, distinct, nearest, position, written


class CellIndex:
    """For each parameter the position of its value in every cell."""

    def __init__(self, cells: Sequence[Cell], values: Mapping[str, list[Value]], short: Mapping[str, str]) -> None:
        self._cells, self._values, self._short = cells, values, short
        places = {name: {v: i for i, v in enumerate(known)} for name, known in values.items()}
        self._codes = {
            name: np.array([place.get(cell.setting[name], MISSING) for cell in cells]) for name, place in places.items()
        }

    def find(self, asked: Mapping[str, Value]) -> list[Cell]:
        """The cells at the values `asked`, by full names of parameters."""
        return [self._cells[i] for i in np.flatnonzero(self._match(asked)).tolist()]

    def why_none(self, asked: Mapping[str, Value]) -> str:
        """Which value, or which combination of values, was not measured, and the nearest that were."""
        strange = [name for name, value in asked.items() if position(value, self._values[name]) is None]
        if strange:
            return "; ".join(self._not_measured(name, asked[name], self._values[name]) for name in strange)
        for name in asked:
            others = {other: value for other, value in asked.items() if other != name}
            if near := distinct(cell.setting[name] for cell in self.find(others)):
                held = ", ".join(f"{self._short[n]}={written(v)}" for n, v in others.items())
                return f"at {held}, {self._not_measured(name, asked[name], near)}"
        return "each of these values was measured, but not together"

    def _match(self, asked: Mapping[str, Value]) -> NDArray[np.bool_]:
        mask = np.ones(len(self._cells), dtype=bool)
        for name, value in asked.items():
            at = position(value, self._values[name])
            mask &= False if at is None else self._codes[name] == at
        return mask

    def _not_measured(self, name: str, value: Value, known: Sequence[Value]) -> str:
        near = nearest(value, known)
        listed = ", ".join(map(written, near)) or "none"
        word = "nearest measured" if len(near) < len(known) else "measured"
        return f"{self._short[name]}={written(value)} was not measured ({word}: {listed})"
