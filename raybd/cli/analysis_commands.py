"""The commands that read the trials of a sweep through `analysis`: map, runs, report, table, signal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from raybd.command_line.store_commands import Name
from raybd.command_line.tables import TableFormat, format_json
from raybd.errors import InputError
from raybd.plugins import assignments

if TYPE_CHECKING:
    import pandas as pd

MAP_WORDS = "NAME [NAME ...] show | query [AXIS=VALUE ...]"


def query_map(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar=MAP_WORDS)],
    tracking_uri: str | None = None,
    max_accuracy_loss: float = 0.02,
    max_attack_success: float = 0.1,
    min_probability: float = 0.9,
    false_discovery_rate: float | None = None,
    interpolate: bool = False,
    json: bool = False,
    csv: bool = False,
    latex: bool = False,
) -> int:
    """Ask the defended-region map of a sweep, or of several together.

    Args:
        words: NAME ... show: every cell; NAME ... query AXIS=VALUE ...: the verdict at a setting, as attack=badnets
            poison_rate=0.02; an axis left out: the worst of its values.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        max_accuracy_loss: Allowed loss of clean accuracy, in [0, 1].
        max_attack_success: Allowed attack success above that of the clean twins, in [0, 1].
        min_probability: What a verdict needs to be given, above 1/2.
        false_discovery_rate: Share of wrong ones among the cells called defended, over the whole map; none: not held.
        interpolate: Answer between measured cells too.
        json: Print JSON.
        csv: Print CSV.
        latex: Print a LaTeX table.
    """
    from analysis import DefendedRegionMap
    from analysis.summary import summary, summary_frame

    names, action, setting = _map_words(words)
    form = TableFormat(json, csv, latex)
    asked = _settings(setting)
    if asked and action == "show":
        raise InputError("show takes no setting: use query")
    found = DefendedRegionMap.from_mlflow(
        names,
        tracking_uri,
        max_accuracy_loss=max_accuracy_loss,
        max_attack_success=max_attack_success,
        min_probability=min_probability,
        false_discovery_rate=false_discovery_rate,
    )
    if action == "show":
        print(form.of(found.to_frame(), lambda: summary(found), lambda: summary_frame(found)))
        return 0
    verdict = found.table.answer(found.table.names.full_setting(asked), interpolate)
    if json:
        print(format_json({"setting": dict(verdict.setting)} | verdict.to_dict()))
    else:
        print(form.of(verdict.to_frame(), lambda: str(verdict)))
    return 0


def write_table(name: Name, out: str, tracking_uri: str | None = None) -> int:
    """Write the trials of a sweep as a table in a file, of which its map can be made without the store.

    Args:
        name: Name of the sweep.
        out: File to write, .csv, .csv.gz or .parquet; DefendedRegionMap.from_file(FILE) reads it.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
    """
    from analysis import trial_file
    from raybd.tracking import load_runs

    count = trial_file.write(load_runs(name, tracking_uri), out)
    print(f"{count} trials in {out}; in Python: DefendedRegionMap.from_file({out!r})")
    return 0


def list_runs(
    name: Name, tracking_uri: str | None = None, json: bool = False, csv: bool = False, latex: bool = False
) -> int:
    """List the trials of a sweep: run id, status, seed, what varies, and how well the backdoor took.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        json: Print JSON.
        csv: Print CSV.
        latex: Print a LaTeX table.
    """
    from analysis.runs import run_table
    from analysis.text_table import format_frame
    from raybd.tracking import load_runs

    form = TableFormat(json, csv, latex)
    table = run_table(load_runs(name, tracking_uri), name)
    print(form.of(table, lambda: format_frame(table)))
    return 0


def write_sweep_report(name: Name, out: str = "", tracking_uri: str | None = None) -> int:
    """Write the report of a sweep: one HTML file that needs nothing else.

    Args:
        name: Name of the sweep.
        out: File to write; none: NAME.html here.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
    """
    from analysis.report import write_report

    print(write_report(name, out or f"{name}.html", tracking_uri))
    return 0


def show_signal(
    name: Name,
    out: str = "",
    fit: str = "",
    fit_measures: Sequence[str] = ("defender/*",),
    fit_shares: Sequence[float] = (0.2,),
    fit_sure: Sequence[float] = (0.9,),
    tracking_uri: str | None = None,
    json: bool = False,
    csv: bool = False,
    latex: bool = False,
) -> int:
    """Say how well each measure at each epoch foretells whether the backdoor takes hold: sentences, then tables.

    Args:
        name: Name of the sweep, or a file of observations that --out wrote.
        out: File to write the observations to, .csv or .csv.gz, from which this is said again without the store.
        fit: File to write an early warning to, fitted to all trials, for --stop-on-warning and `raybd.watch`.
        fit_measures: Patterns of the measures that enter it; `raybd.watch` takes defender/* alone.
        fit_shares: Shares of the epochs after which it speaks.
        fit_sure: Probabilities from which it is sure that a backdoor takes hold, one a share or one for all.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        json: Print JSON.
        csv: Print CSV.
        latex: Print a LaTeX table.
    """
    from analysis import signal
    from analysis.signal.text import signal_text
    from raybd.early_warning import write_warning

    form = TableFormat(json, csv, latex)
    observations = _observations(name, tracking_uri)
    if out:
        signal.write_observations(observations, out)
    if fit:
        write_warning(signal.fit_stages(observations, fit_shares, fit_measures, fit_sure), fit)
    table = signal.signal_table(observations)
    print(form.of(table, lambda: signal_text(observations, table)))
    return 0


def _observations(name: str, tracking_uri: str | None) -> "pd.DataFrame":
    from analysis import DefendedRegionMap, signal

    if name.endswith((".csv", ".csv.gz")):
        return signal.read_observations(name)
    from raybd.tracking import load_histories

    region_map = DefendedRegionMap.from_mlflow(name, tracking_uri)
    return signal.observe(load_histories(name, tracking_uri), region_map)


def _settings(given: Sequence[str]) -> dict[str, Any]:
    from analysis.values import parse

    return {name: parse(value) for name, value in assignments("query", given, form="AXIS=VALUE").items()}


def _map_words(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Names of sweeps, what is asked, and the setting, of the words of `raybd map`.

    Raises:
        InputError: one of the first two is missing.
    """
    at = next((i for i, word in enumerate(words) if i and word in ("query", "show")), 0)
    if not at:
        raise InputError(f"raybd map {MAP_WORDS}, not {' '.join(words) or 'nothing'}")
    return list(words[:at]), words[at], list(words[at + 1 :])
