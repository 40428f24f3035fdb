"""Drawings for the report as SVG text: each mark says in words, in its <title>, what it shows."""

import math
from collections.abc import Sequence
from html import escape

from analysis.style import GREY, INK, STYLES
from analysis.values import Value, format_value
from analysis.verdict import Status, Verdict

WIDTH, HEIGHT, LEFT, BOTTOM = 96, 52, 74, 40  # a cell, and the margins for its labels
SMALL = 'font-size="11"'
Axis = tuple[str, Sequence[Value]]  # name, values
Row = tuple[str, float, float, float]  # label, low, value, high


def patterns() -> str:
    """The hatches, to be drawn once a page."""
    marks = {
        "kept_out": '<path d="M0 0 L8 8 M-2 6 L2 10 M6 -2 L10 2" stroke="{line}" stroke-width="1.6"/>',
        "backdoored": '<path d="M0 8 L8 0 M-2 2 L2 -2 M6 10 L10 6" stroke="{line}" stroke-width="1.6"/>',
        "uncertain": '<circle cx="4" cy="4" r="1.4" fill="{line}"/>',
        "unmeasured": '<path d="M0 0 L8 8 M8 0 L0 8" stroke="{line}" stroke-width="1"/>',
        "defended": "",
    }
    drawn = [
        f'<pattern id="{status}" width="8" height="8" patternUnits="userSpaceOnUse"><rect width="8" height="8" '
        f'fill="{style.face}"/>{marks[status].format(line=style.line)}</pattern>'
        for status, style in STYLES.items()
    ]
    return f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(drawn)}</defs></svg>'


def legend() -> str:
    """Each status with its hatch, in as many lines as the page needs."""
    return " ".join(map(_key, STYLES))


def grid(x: Axis, y: Axis, verdicts: Sequence[Sequence[Verdict]]) -> str:
    """A slice as a grid, y upwards: `verdicts[i][j]` at the i-th value of y and the j-th of x.

    In each cell stand attack success and clean accuracy.
    """
    (x_name, x_values), (y_name, y_values) = x, y
    rows, columns = len(y_values), len(x_values)
    width, height = LEFT + WIDTH * columns + 8, HEIGHT * rows + BOTTOM + 8
    marks = []
    for i, row in enumerate(verdicts):
        top = 4 + HEIGHT * (rows - 1 - i)
        marks.append(_text(LEFT - 8, top + HEIGHT / 2 + 4, format_value(y_values[i]), "end"))
        marks += [_cell(LEFT + WIDTH * j, top, verdict) for j, verdict in enumerate(row)]
    foot = 4 + HEIGHT * rows
    marks += [
        _text(LEFT + WIDTH * (j + 0.5), foot + 15, format_value(value), "middle") for j, value in enumerate(x_values)
    ]
    marks.append(_text(LEFT + WIDTH * columns / 2, foot + 32, x_name, "middle"))
    middle = 4 + HEIGHT * rows / 2
    turned = f'transform="rotate(-90 12 {middle:.0f})"'
    marks.append(f'<text x="12" y="{middle:.0f}" {turned} text-anchor="middle" {SMALL}>{escape(y_name)}</text>')
    label = escape(f"verdicts over {x_name} and {y_name}", quote=True)
    return f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" fill="{INK}">{"".join(marks)}</svg>'


def intervals(rows: Sequence[Row], name: str, measured: Sequence[float]) -> str:
    """A line a row on a logarithmic axis: a bar from low to high and a dot at the value; an open end is an arrow.

    Ticks stand at the values `measured`; where nothing of the rows is above 0, there is no drawing.
    """
    numbers = [v for _, *values in rows for v in values if math.isfinite(v) and v > 0]
    if not numbers:
        return ""
    ticks = [value for value in measured if value > 0]
    numbers += ticks
    low, high = math.log10(min(numbers)) - 0.15, math.log10(max(numbers)) + 0.15
    left, width = 10 + 7 * max(len(label) for label, *_ in rows), 420

    def x(value: float) -> float:
        return left + width * (math.log10(value) - low) / (high - low)

    marks = []
    for i, (label, start, value, end) in enumerate(rows):
        y = 14 + 22 * i
        first = x(start) if math.isfinite(start) and start > 0 else left
        last = x(end) if math.isfinite(end) else left + width
        title = escape(f"{label}: largest defended {_number(value)}, from {_number(start)} to {_number(end)}")
        bar = f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{y}" y2="{y}" stroke="{GREY}" stroke-width="6"/>'
        dot = f'<circle cx="{x(value):.1f}" cy="{y}" r="5"/>' if math.isfinite(value) and value > 0 else ""
        arrow = f'<path d="M{last:.0f} {y - 6} l8 6 l-8 6 z"/>' if math.isinf(end) else ""
        marks.append(f"<g><title>{title}</title>{_text(left - 10, y + 4, label, 'end')}{bar}{dot}{arrow}</g>")
    foot = 22 * len(rows) + 6
    marks.append(f'<path d="M{left} {foot} H{left + width}" stroke="{INK}"/>')
    marks += [f'<path d="M{x(tick):.1f} {foot} v5" stroke="{INK}"/>' for tick in ticks]
    marks += [_text(x(tick), foot + 18, format_value(tick), "middle") for tick in _apart(ticks)]
    marks.append(_text(left + width / 2, foot + 34, f"{name} (logarithmic)", "middle"))
    label = escape(f"largest defended {name}, with its interval", quote=True)
    size = f'width="{left + width + 24}" height="{foot + 40}"'
    return f'<svg role="img" aria-label="{label}" {size} fill="{INK}">{"".join(marks)}</svg>'


def _key(status: str) -> str:
    box = f'<rect x="1" y="1" width="26" height="18" fill="url(#{status})" stroke="{GREY}"/>'
    drawn = f'<svg aria-hidden="true" width="28" height="20" style="vertical-align:middle">{box}</svg>'
    return f'<span style="white-space:nowrap;margin-right:1.2em">{drawn} {status}</span>'


def _apart(ticks: Sequence[float]) -> list[float]:
    """Those of `ticks`, rising, that have room for their label: a tenth of a decade."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick > 1.25 * kept[-1]:
            kept.append(tick)
    return kept


def _cell(x: float, y: float, verdict: Verdict) -> str:
    style, status = STYLES[verdict.status], verdict.status
    lines = ["not", "measured"] if status == "unmeasured" else [_share("ASR", verdict), _share("ACC", verdict)]
    middle = f'x="{x + WIDTH / 2}" text-anchor="middle"'
    words = "".join(
        f'<text {middle} y="{y + 22 + 14 * k}" {SMALL} fill="{style.text}">{line}</text>'
        for k, line in enumerate(lines)
    )
    box = f'width="{WIDTH}" height="{HEIGHT}" fill="url(#{status})" stroke="#fff" stroke-width="2"'
    behind = f'<rect x="{x + 14}" y="{y + 9}" width="{WIDTH - 28}" height="34" fill="{style.face}"/>'
    return (
        f'<g class="cell"><title>{_describe(verdict, status)}</title><rect x="{x}" y="{y}" {box}/>{behind}{words}</g>'
    )


def _describe(verdict: Verdict, status: Status) -> str:
    where = ", ".join(f"{name}={format_value(value)}" for name, value in verdict.setting.items())
    rates = f"attack success {verdict.attack_success}, clean accuracy {verdict.clean_accuracy}, {verdict.seeds} seeds; "
    return escape(f"{status} at {where}: {'' if status == 'unmeasured' else rates}{verdict.reason}")


def _share(name: str, verdict: Verdict) -> str:
    value = (verdict.attack_success if name == "ASR" else verdict.clean_accuracy).value
    return f"{name} -" if math.isnan(value) else f"{name} {value:.1%}"


def _number(value: float) -> str:
    return "not known" if math.isnan(value) else "open" if math.isinf(value) else f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {SMALL}>{escape(text)}</text>'
