"""An index of cells by the values of their parameters."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cell
from analysis.values import MISSING, Value, distinct, format_value, identity, index_of, neighbours


class CellIndex:
    """Cells by the values of their parameters, which match within a tolerance."""

    def __init__(self, cells: Sequence[Cell], values: Mapping[str, list[Value]], short: Mapping[str, str]) -> None:
        self._cells, self._values, self._short = cells, values, short
        codes = {name: {identity(v): i for i, v in enumerate(known)} for name, known in values.items()}
        self._codes = {
            name: np.array([code.get(identity(cell.setting[name]), MISSING) for cell in cells])
            for name, code in codes.items()
        }

    def find(self, setting: Mapping[str, Value]) -> list[Cell]:
        """The cells at the values of `setting`, by full names of parameters."""
        return [self._cells[i] for i in np.flatnonzero(self._mask(setting)).tolist()]

    def explain_missing(self, setting: Mapping[str, Value]) -> str:
        """Which value, or which combination of values, was not measured, and the nearest that were."""
        unmeasured = [name for name, value in setting.items() if index_of(value, self._values[name]) is None]
        if unmeasured:
            return "; ".join(self._not_measured(name, setting[name], self._values[name]) for name in unmeasured)
        for name in setting:
            others = {other: value for other, value in setting.items() if other != name}
            if near := distinct(cell.setting[name] for cell in self.find(others)):
                fixed = ", ".join(f"{self._short[n]}={format_value(v)}" for n, v in others.items())
                return f"at {fixed}, {self._not_measured(name, setting[name], near)}"
        return "each of these values was measured, but not together"

    def _mask(self, setting: Mapping[str, Value]) -> NDArray[np.bool_]:
        mask = np.ones(len(self._cells), dtype=bool)
        for name, value in setting.items():
            code = index_of(value, self._values[name])
            mask &= False if code is None else self._codes[name] == code
        return mask

    def _not_measured(self, name: str, value: Value, known: Sequence[Value]) -> str:
        near = neighbours(value, known)
        listed = ", ".join(map(format_value, near)) or "none"
        word = "nearest measured" if len(near) < len(known) else "measured"
        close = get_close_matches(str(value), [text for text in known if isinstance(text, str)], cutoff=0.8)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        return f"{self._short[name]}={format_value(value)} was not measured ({word}: {listed}{hint})"
