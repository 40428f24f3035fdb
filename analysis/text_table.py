"""Tables as text for the terminal."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.values import format_value, to_python


def format_mean_std(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation (n - 1), in percent unless `scale` says otherwise; one value has no deviation.

    Where some of the values are NaN: those that are not, and "(k of n)".
    """
    known = scale * np.array([value for value in values if not np.isnan(value)])
    if len(known) == 0:
        return "-"
    spread = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    share = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{known.mean():.{digits}f}{spread}{share}"


def align_columns(lines: Sequence[Sequence[str]]) -> str:
    """`lines` of cells with each column as wide as its widest cell; "" where there are none."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_frame(frame: pd.DataFrame) -> str:
    """A data frame with its columns aligned, without its index."""
    rows = [[format_cell(value) for value in row] for row in frame.to_numpy().tolist()]
    return align_columns([[str(name) for name in frame], *rows])


def format_cell(value: object) -> str:
    """A value as a person would type it, "-" where there is none."""
    value = to_python(value)
    return "-" if value is None else format_value(value)
