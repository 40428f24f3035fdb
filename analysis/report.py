"""The report of a sweep: one HTML file that needs nothing else, no picture, no script, no network."""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import records, svg
from analysis.boundary import boundary_table
from analysis.cell_table import CellTable
from analysis.plots import panels, subtitle
from analysis.prediction import prediction_table
from analysis.region_map import DefendedRegionMap
from analysis.runs import notable
from analysis.signatures import signature_table
from analysis.values import Value, distinct, format_value, to_python
from analysis.verdict import STATUSES
from raybd.errors import InputError
from raybd.utils.files import expanded

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; }
table { border-collapse: collapse; } td, th { padding: .2em .7em; border-bottom: 1px solid #c9ccd1; text-align: left; }
pre, code { font-size: 12px; overflow-x: auto; } figure { margin: 0 1em 1em 0; display: inline-block; }
figcaption { font-weight: 600; } details { margin: .4em 0; } svg { max-width: 100%; }
"""
VERSIONS = {"raybd": "tags.raybd.version", "commit": "tags.raybd.commit", "device": "tags.raybd.device"}


def write_report(experiment: str | Sequence[str], path: str | Path, tracking_uri: str | None = None) -> Path:
    """Write the report of the sweep `experiment`, or of several, to `path`; where it is now.

    Raises:
        InputError: the store cannot be read, holds no trial, or the file cannot be written.
    """
    from raybd import tracking  # here, because it takes MLflow's seconds

    runs = tracking.load_runs(experiment, tracking_uri, all_metrics=True)
    if runs.empty:
        raise InputError(f"no trial is logged in {experiment!r}")
    return save_report(runs, experiment if isinstance(experiment, str) else ", ".join(experiment), path)


def save_report(runs: pd.DataFrame, name: str, path: str | Path) -> Path:
    """Write the report of `runs`, with all their metrics, to `path`; where it is.

    Raises:
        InputError: the file cannot be written.
    """
    text, path = report(runs, name), expanded(path)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return path


def report(runs: pd.DataFrame, name: str) -> str:
    """The page, of runs as `raybd.tracking.load_runs` gives them."""
    region_map = DefendedRegionMap.from_frame(records.canonical_frame(runs))
    table = region_map.table
    parts = [_head(table, runs, name), _maps(table), _boundaries(table)]
    parts += [_signatures(region_map, runs), _runs(region_map, runs)]
    head = f'<meta charset="utf-8"><title>{escape(name)}: where does the backdoor not take hold?</title>'
    body = f"{svg.patterns()}{''.join(parts)}"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'


def _head(table: CellTable, runs: pd.DataFrame, name: str) -> str:
    facts = [escape(line) for line in subtitle(table, panels(table)[0][0])]
    statuses = pd.Series([cell.verdict.status for cell in table.cells if cell.poisoned]).value_counts()
    counts = ", ".join(f"{statuses[status]} {status}" for status in STATUSES if status in statuses)
    known = {label: distinct(runs[tag]) for label, tag in VERSIONS.items() if tag in runs}
    versions = "; ".join(f"{label} {', '.join(map(str, values))}" for label, values in known.items() if values)
    lines = [*facts, f"cells with poison: {counts}", _expected(table), escape(versions)]
    lines.append(time.strftime("written %Y-%m-%d"))
    title = "<h1>Where does the backdoor not take hold?</h1>"
    return f"{title}<p>Sweep <b>{escape(name)}</b></p><ul>{''.join(f'<li>{line}</li>' for line in lines if line)}</ul>"


def _expected(table: CellTable) -> str:
    """How many of the cells called defended are expected not to be, by their own probabilities."""
    chances = [c.verdict.probability for c in table.cells if c.poisoned and c.verdict.status == "defended"]
    if not chances:
        return ""
    wrong = sum(1 - chance for chance in chances)
    return f"of {len(chances)} cells called defended {wrong:.2g} are expected not to be, by their probabilities"


def _maps(table: CellTable) -> str:
    drawn = [
        f"<figure><figcaption>{escape(panel.title)}</figcaption>{svg.grid(panel)}</figure>"
        for row in panels(table)
        for panel in row
    ]
    note = (
        "ASR: attack success; ACC: clean accuracy; kept_out: the backdoor does not take hold, but accuracy is lost. "
        "Hold the pointer over a cell for its intervals and its reason."
    )
    return f"<h2>The map</h2><p>{svg.legend()}</p><p>{note}</p>{''.join(drawn)}"


def _boundaries(table: CellTable) -> str:
    parts = []
    for value in distinct(cell.setting["attack.name"] for cell in table.cells if cell.poisoned):
        setting = {"attack.name": value}
        measured, between = (boundary_table(table, "poison_rate", setting, surface) for surface in (False, True))
        numbers = ["largest defended", "low", "high"]
        rows = measured.drop(columns="reason").assign(**{f"{n} (surface)": between[n] for n in numbers})
        settings = [str(n) for n in measured][: -len(numbers) - 2]
        labels = [", ".join(f"{n}={format_value(row[n])}" for n in settings) or "all" for row in _records(measured)]
        best = between.where(between["high"].notna(), measured)[["low", "largest defended", "high"]]
        drawn = [(label, *row) for label, row in zip(labels, best.astype(float).to_numpy().tolist(), strict=True)]
        heading = f"<h3>{escape(format_value(value))}</h3>"
        parts.append(f"{heading}{svg.intervals(drawn, 'poison rate')}{_table(_records(rows))}")
    note = (
        "The largest defended poison rate of each setting. Up to low everything is defended, from high on all is "
        "kept_out or backdoored (inf: not reached). Surface: read off a Gaussian process through the cells, with its "
        "90 % band, where there are cells enough."
    )
    return f"<h2>Where the region ends</h2><p>{note}</p>{''.join(parts)}"


def _signatures(region_map: DefendedRegionMap, runs: pd.DataFrame) -> str:
    table = prediction_table(runs, region_map)
    heading = "<h2>Do signatures and smoothing tell where the attack gets through?</h2>"
    if table.empty:
        return f"{heading}<p>No measure of information or smoothing was logged.</p>"
    note = (
        "AUC: the chance that a cell where the attack gets through has the larger value; 90 % bootstrap over cells, "
        "which share seeds and data: rather too narrow. An association within this sweep, and no more."
    )
    claims = "".join(f"<li>{escape(line)}</li>" for line in map(_claim, _records(table)))
    return f"{heading}<ul>{claims}</ul>{_table(_records(table))}<p>{note}</p><pre>{escape(signature_table(runs))}</pre>"


def _claim(row: dict[str, Value]) -> str:
    low, high = float(str(row["low"])), float(str(row["high"]))
    if np.isnan(low):
        return f"{row['measure']}: every cell is on one side of the threshold, so nothing can be told"
    if low > 0.5 or high < 0.5:
        return f"{row['measure']} is {'larger' if low > 0.5 else 'smaller'} where the attack gets through"
    return f"{row['measure']}: not shown to tell where the attack gets through"


def _runs(region_map: DefendedRegionMap, runs: pd.DataFrame) -> str:
    by_id = {str(row["run_id"]): row for row in runs.to_dict("records")}
    rows, details = [], []
    for run_id, why in notable(region_map):
        row = by_id[run_id]
        short = [("run", run_id), ("why", why), ("seed", row.get("params.seed"))]
        rates = {"ASR": "metrics.attack_success", "ACC": "metrics.accuracy/clean"}
        rows.append(dict(short) | {label: row.get(column) for label, column in rates.items()})
        details.append(_settings(run_id, {str(name): value for name, value in row.items()}))
    return f"<h2>Runs to look at</h2>{_table(rows)}<h3>Their settings</h3>{''.join(dict.fromkeys(details))}"


def _settings(run_id: str, row: dict[str, object]) -> str:
    kept = [(n.removeprefix("params."), v) for n, v in row.items() if n.startswith("params.")]
    kept += [(label, row.get(column)) for label, column in VERSIONS.items()]
    lines = "\n".join(f"{name} = {value}" for name, value in sorted(kept) if to_python(value) is not None)
    return f"<details><summary><code>{escape(run_id)}</code></summary><pre>{escape(lines)}</pre></details>"


def _records(table: pd.DataFrame) -> list[dict[str, Value]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _table(rows: Sequence[dict[str, Value]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = ["".join(f"<td>{escape(_format(value))}</td>" for value in row.values()) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _format(value: Value) -> str:
    value = to_python(value)
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else format_value(value)
