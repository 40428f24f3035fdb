"""HTML of tables of numbers, for the report and for notebooks."""

import pandas as pd

from analysis.values import Value, format_value, to_python
from raybd.utils.html import table


def frame_html(frame: pd.DataFrame) -> str:
    """`frame` as a table that scrolls where it is too wide."""
    return table({str(name): _cell(value) for name, value in row.items()} for row in frame.to_dict("records"))


def _cell(value: Value) -> object:
    value = to_python(value)
    return value if value is None or isinstance(value, float) else format_value(value)
