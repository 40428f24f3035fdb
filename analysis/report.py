"""The report of a sweep: one HTML file that needs nothing else, no picture beside it, no script, no network."""

import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from analysis import records, svg
from analysis.boundary import boundary_table
from analysis.cell_table import CellTable
from analysis.findings import findings
from analysis.findings.wording import choice_words, place_words
from analysis.html import frame_html
from analysis.panels import panels, subtitle
from analysis.region_map import DefendedRegionMap
from analysis.runs import notable
from analysis.signal import observe, signal_sentences, signal_table, trade_off_table
from analysis.signal.measures import RANDOM
from analysis.signal.observations import last_epochs
from analysis.signal.text import MOST
from analysis.signatures import signature_table
from analysis.values import Value, distinct, format_value, to_python
from analysis.verdict import STATUSES
from raybd.errors import InputError
from raybd.utils.files import expanded, write_errors

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; line-height: 1.25; } h2 { font-size: 1.2em; margin-top: 2em; } h3 { font-size: 1em; }
ul { padding-left: 1.2em; } .facts { color: #4a5563; font-size: 13px; } .findings li { margin: .3em 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
td, th { padding: .2em .7em; border-bottom: 1px solid #c9ccd1; text-align: left; white-space: nowrap; }
pre { font-size: 12px; overflow-x: auto; } figure { margin: 0 1em 1em 0; display: inline-block; max-width: 100%; }
.scroll { overflow-x: auto; } figcaption { font-weight: 600; } details { margin: .4em 0; } a { color: #1f5a96; }
@media (max-width: 500px) { body { margin: 1em auto; padding: 0 .7em; } h1 { font-size: 1.25em; } }
"""
MEANINGS = (
    "X: the image. T: the features of the network's last block, with its noise. Y: what the network answers. I: mutual "
    "information, in nats. Signature: I(X; T) of triggered images less that of the same images without the trigger, "
    "less the same difference in the clean twin, at a resolution. S1: the mean size of the signature over its error; "
    "small: the backdoor is at home in the network. S2: how well features tell poison from the target's own images. "
    "W: the entropy of the network's answers around an image, under noise of deviation sigma; smoothing gap: W of "
    "clean images less W of triggered ones."
)
SIGNAL_NOTE = (
    "AUC: the chance that a trial where the backdoor takes hold in the end has the larger value than one where not; "
    "within rates: of settings at the same poison rate; low and high: 90 % by resampling cells; p: corrected for all "
    "rows; given the rate: rank correlation with attack success; unseen: AUC in the direction of the other attacks."
)
PICTURES = ("tsne", "grad_cam", "spectrum", "channels")  # of the metric `pictures`
Figures = Mapping[str, Mapping[str, bytes]]  # PNG by run and name
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
    histories = tracking.load_histories(experiment, tracking_uri)
    name = experiment if isinstance(experiment, str) else ", ".join(experiment)
    return save_report(runs, name, path, histories, pictures_of(runs, tracking_uri))


def pictures_of(runs: pd.DataFrame, tracking_uri: str | None) -> Figures:
    """What the metric `pictures` has drawn of the runs to look at; nothing where no trial was asked for it."""
    if not any(str(column).startswith("params.metrics.pictures.") for column in runs):
        return {}
    from raybd.tracking import load_figures  # here, because it takes MLflow's seconds

    region_map = DefendedRegionMap.from_frame(records.canonical_frame(runs))
    wanted = list(dict.fromkeys(run_id for run_id, _ in notable(region_map)))
    return load_figures(wanted, PICTURES, tracking_uri)


def save_report(
    runs: pd.DataFrame,
    name: str,
    path: str | Path,
    histories: pd.DataFrame | None = None,
    pictures: Figures | None = None,
) -> Path:
    """Write the report of `runs`, with all their metrics, to `path`; where it is.

    Raises:
        InputError: the file cannot be written.
    """
    text, path = report(runs, name, histories=histories, pictures=pictures), expanded(path)
    with write_errors(path):
        path.write_text(text, encoding="utf-8")
    return path


def report(
    runs: pd.DataFrame,
    name: str,
    sentences: Sequence[str] | None = None,
    region_map: DefendedRegionMap | None = None,
    histories: pd.DataFrame | None = None,
    pictures: Figures | None = None,
) -> str:
    """The page, of runs as `raybd.tracking.load_runs` gives them.

    `sentences`: what it begins with, the first as its headline; None: those of `analysis.findings`, which say nothing
    of smoothing. `region_map`: that of the runs, where it is at hand. `histories`: their metrics at every epoch, of
    `raybd.tracking.load_histories`; None: measures are looked at after the last epoch alone. `pictures`: those of
    `pictures_of`, which stand with the settings of their runs.
    """
    region_map = region_map or DefendedRegionMap.from_frame(records.canonical_frame(runs))
    table, said = region_map.table, findings(region_map, runs) if sentences is None else sentences
    parts = [_head(table, runs, name, said), _maps(table), _boundaries(table)]
    parts += [_signatures(region_map, runs, histories), _runs(region_map, runs, pictures or {})]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(name)}: where does the backdoor not take hold?</title>"
    body = f"{svg.patterns()}{''.join(parts)}"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'


def _head(table: CellTable, runs: pd.DataFrame, name: str, said: Sequence[str]) -> str:
    facts = [escape(line) for line in subtitle(table, panels(table)[0][0])]
    statuses = pd.Series([cell.verdict.status for cell in table.cells if cell.poisoned]).value_counts()
    counts = ", ".join(f"{statuses[status]} {status}" for status in STATUSES if status in statuses)
    known = {label: distinct(runs[tag]) for label, tag in VERSIONS.items() if tag in runs}
    versions = "; ".join(f"{label} {', '.join(map(str, values))}" for label, values in known.items() if values)
    lines = [*facts, f"cells with poison: {counts}", _expected(table), escape(versions)]
    lines.append(time.strftime("written %Y-%m-%d"))
    question = f"Where does the backdoor not take hold? Sweep <b>{escape(name)}</b>"
    more = "".join(f"<li>{escape(line)}</li>" for line in said[1:])
    small = "".join(f"<li>{line}</li>" for line in lines if line)
    title = f"<p>{question}</p><h1>{escape(said[0])}</h1>"
    return f'{title}<ul class="findings">{more}</ul><ul class="facts">{small}</ul>'


def _expected(table: CellTable) -> str:
    """How many of the cells called defended are expected not to be, by their own probabilities."""
    chances = [c.verdict.probability for c in table.cells if c.poisoned and c.verdict.status == "defended"]
    if not chances:
        return ""
    wrong = sum(1 - chance for chance in chances)
    return f"of {len(chances)} cells called defended {wrong:.2g} are expected not to be, by their probabilities"


def _maps(table: CellTable) -> str:
    drawn = [f"<figure>{panel.to_html()}</figure>" for row in panels(table) for panel in row]
    note = (
        "ASR: attack success; ACC: clean accuracy; kept_out: the backdoor does not take hold, but accuracy is lost. "
        "Hold the pointer over a cell for its intervals and its reason."
    )
    return f"<h2>The map</h2><p>{svg.legend()}</p><p>{note}</p>{''.join(drawn)}"


def _boundaries(table: CellTable) -> str:
    parts, rates = [], [float(str(rate)) for rate in table.measured("poison_rate")]
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
        parts.append(
            f'{heading}<div class="scroll">{svg.intervals(drawn, "poison rate", rates)}</div>{frame_html(rows)}'
        )
    note = (
        "The largest defended poison rate of each setting. Up to low everything is defended, from high on all is "
        "kept_out or backdoored (inf: not reached). Surface: read off a Gaussian process through the cells, with its "
        "90 % band, where there are cells enough."
    )
    return f"<h2>Where the region ends</h2><p>{note}</p>{''.join(parts)}"


def _signatures(region_map: DefendedRegionMap, runs: pd.DataFrame, histories: pd.DataFrame | None) -> str:
    observations = observe(last_epochs(runs) if histories is None else histories, region_map)
    table, heading = signal_table(observations), "<h2>Do measures foretell whether the backdoor takes hold?</h2>"
    if set(table["measure"]) <= {RANDOM}:
        return f"{heading}<p>No measure was logged at settings with a sure verdict.</p>"
    said = "".join(f"<li>{escape(line)}</li>" for line in signal_sentences(table))
    tables = [frame_html(table.head(MOST)), f"<p>{SIGNAL_NOTE}</p>", frame_html(trade_off_table(observations))]
    numbers = f"<pre>{escape(signature_table(runs))}</pre>"
    return f"{heading}<p>{escape(MEANINGS)}</p><ul>{said}</ul>{''.join(tables)}{numbers}"


def _runs(region_map: DefendedRegionMap, runs: pd.DataFrame, pictures: Figures) -> str:
    by_id = {str(row["run_id"]): {str(name): value for name, value in row.items()} for row in runs.to_dict("records")}
    labels = _labels(region_map, runs)
    rows = [_notable_row(run_id, labels[run_id], why, by_id[run_id]) for run_id, why in notable(region_map)]
    head = "<tr><th>run</th><th>why</th><th>ASR</th><th>ACC</th></tr>"
    kept = dict.fromkeys(run_id for run_id, _ in notable(region_map))
    details = "".join(_settings(run_id, labels[run_id], by_id[run_id], pictures.get(run_id, {})) for run_id in kept)
    listed = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>' if rows else "<p>None.</p>"
    return f"<h2>Runs to look at</h2>{listed}<h3>Their settings</h3>{details}"


def _labels(region_map: DefendedRegionMap, runs: pd.DataFrame) -> dict[str, str]:
    """Attack, poison rate, the other settings that vary, and seed of each run, by its id."""
    seeds = dict(zip(runs["run_id"].astype(str), runs["params.seed"], strict=True))
    table, found = region_map.table, dict[str, str]()
    for cell in region_map.cells:
        words = list(filter(None, (place_words(table, cell), choice_words(table, cell))))
        failed = (text.partition(": ")[0] for text in cell.verdict.failures)
        for run_id in (*cell.verdict.evidence, *failed):
            found[run_id] = ", ".join([*words, f"seed {seeds[run_id]}"])
    return found


def _notable_row(run_id: str, label: str, why: str, row: dict[str, object]) -> str:
    rates = (row.get(f"metrics.{name}") for name in ("attack_success", "accuracy/clean"))
    shown = "".join(f"<td>{'-' if to_python(rate) is None else f'{rate:.1%}'}</td>" for rate in rates)
    return f'<tr><td><a href="#{_anchor(run_id)}">{escape(label)}</a></td><td>{escape(why)}</td>{shown}</tr>'


def _settings(run_id: str, label: str, row: dict[str, object], pictures: Mapping[str, bytes]) -> str:
    kept = [(n.removeprefix("params."), v) for n, v in row.items() if n.startswith("params.")]
    kept += [(label, row.get(column)) for label, column in VERSIONS.items()]
    lines = "\n".join(f"{name} = {value}" for name, value in sorted(kept) if to_python(value) is not None)
    head = f"<summary>{escape(label)} (<code>{escape(run_id)}</code>)</summary>"
    drawn = "".join(_picture(name, content) for name, content in pictures.items())
    return f'<details>{head}<pre id="{_anchor(run_id)}">{escape(lines)}</pre>{drawn}</details>'


def _picture(name: str, content: bytes) -> str:
    """A PNG inside the page."""
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    return f'<figure><img src="{source}" alt="{escape(name)}" style="max-width: 100%"></figure>'


def _anchor(run_id: str) -> str:
    return f"run-{escape(run_id, quote=True)}"


def _records(table: pd.DataFrame) -> list[dict[str, Value]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
