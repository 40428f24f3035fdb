"""Small pieces of HTML, for the report and for notebooks: tables and headings, every value escaped."""

import math
from collections.abc import Iterable, Mapping
from html import escape

TOP_LEFT = "text-align:left;vertical-align:top"


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """A table with a row for each of `rows` and the names of the first as its head; it scrolls where it is too wide."""
    listed = list(rows)
    if not listed:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(str(name))}</th>" for name in listed[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(number(v))}</td>' for v in row.values())}</tr>" for row in listed)
    return f'<div style="overflow-x:auto"><table><tr>{head}</tr>{body}</table></div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A table of two columns: names and values."""
    head, cell = f"<th style='{TOP_LEFT};white-space:nowrap'>", f"<td style='{TOP_LEFT}'>"
    body = "".join(f"<tr>{head}{escape(name)}</th>{cell}{escape(number(value))}</td></tr>" for name, value in pairs)
    return f'<div style="overflow-x:auto"><table>{body}</table></div>'


def number(value: object) -> str:
    """A number to three digits, - for what is missing, other values as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
