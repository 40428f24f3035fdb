"""The trials behind a map: one row each, without duplicates, every parameter as a position among its values."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.class_names import with_class_names
from analysis.frame_checks import CONTENT, check_table, check_values, is_missing
from analysis.values import MISSING, Value, distinct, identity, index_of, parse, to_python
from raybd.errors import InputError
from raybd.utils.metric_names import (
    ACCURACY,
    ALIAS,
    ATTACK_SUCCESS,
    CLASSES,
    CLEAN_COUNT,
    DEFENCE_SECONDS,
    HELD_OUT,
    SECONDS,
    TRIGGERED_COUNT,
    WARNING,
)

RATES = ("clean_accuracy", "attack_success")
REQUIRED = ("attack.name", "poison_rate", "seed", "clean_accuracy", "attack_success")
OPTIONAL = (
    "run_id",
    "status",
    "key",
    "clean_count",
    "triggered_count",
    "error",
    "start_time",
    "seconds",
    "alias",
    "held_out",
    "class_names",
    "warning",
)
RESERVED = ("seed", "clean_accuracy", "attack_success", *OPTIONAL)
LOGGED = {  # a column of MLflow's -> ours; the other params.* are parameters
    "run_id": "run_id",
    "status": "status",
    "start_time": "start_time",
    "tags.raybd.key": "key",
    "tags.raybd.error": "error",
    f"metrics.{ACCURACY}": "clean_accuracy",
    f"metrics.{ATTACK_SUCCESS}": "attack_success",
    f"metrics.{CLEAN_COUNT}": "clean_count",
    f"metrics.{TRIGGERED_COUNT}": "triggered_count",
    f"tags.{ALIAS}": "alias",
    f"tags.{HELD_OUT}": "held_out",
    f"tags.{CLASSES}": "class_names",
    f"tags.{WARNING}": "warning",
}
FAMILIES = ("attack.name", "poison_rate", "train.", "model.", "attack.")  # the order in which parameters are shown
NO_METRICS = "finished without a clean accuracy or an attack success"
NO_RATE = "finished with a clean accuracy or an attack success outside [0, 1]"


@dataclass(frozen=True)
class Trials:
    """One row a trial, in order of seed, and what each parameter is there."""

    rows: pd.DataFrame  # the reserved columns, and `done`: finished, with both rates
    codes: pd.DataFrame  # a column for each parameter: position in `values`, or MISSING
    values: dict[str, list[Value]]  # the distinct values of each parameter, sorted

    def value(self, name: str, row: int) -> Value:
        """The value of a parameter in a row; None where there is none."""
        position = int(self.codes[name].iloc[row]) if name in self.values else MISSING
        return None if position == MISSING else self.values[name][position]


def load(experiment: str | Sequence[str], tracking_uri: str | None) -> pd.DataFrame:
    """The canonical frame of the trials logged under `experiment`."""
    from raybd import tracking  # here: importing MLflow takes seconds, and a map of a table needs none

    runs = tracking.load_runs(experiment, tracking_uri)
    if runs.empty:
        names = [experiment] if isinstance(experiment, str) else experiment
        raise InputError(f"no trial is logged in {', '.join(map(repr, names))}")
    return canonical_frame(runs)


def canonical_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs, with columns as MLflow names them, as the frame that `DefendedRegionMap` takes.

    A run whose clean accuracy or attack success is outside [0, 1] is a trial that failed: a store holds what a trial
    logged, and one that went wrong spoils no map of the others. In a table that somebody gives it is refused.
    """
    columns = {ours: runs[theirs] for theirs, ours in LOGGED.items() if theirs in runs}
    columns |= {
        name.removeprefix("params."): _parse_column(runs[name]) for name in map(str, runs) if name.startswith("params.")
    }
    if taken := [runs[f"metrics.{name}"] for name in (SECONDS, DEFENCE_SECONDS) if f"metrics.{name}" in runs]:
        columns["seconds"] = pd.concat(taken, axis=1).max(axis=1)  # with what others spent on a shared encoder
    metrics = dict.fromkeys(RATES, float("nan"))  # absent if no trial got so far
    return _without_impossible(_with_stopped(pd.DataFrame(metrics | columns, index=runs.index)))


def _with_stopped(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame`, in which trials that their early warning stopped have a status of their own, and no rates."""
    if "warning" not in frame or "status" not in frame:
        return frame
    stopped = frame["warning"].notna() & (frame["status"] == "KILLED")
    rates = frame[list(RATES)].astype(float).where(~stopped)
    told = pd.to_numeric(frame["warning"], errors="coerce")  # a tag is a text
    return frame.assign(status=frame["status"].where(~stopped, "STOPPED"), warning=told, **rates)


def _without_impossible(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame`, with each finished trial that has an impossible rate failed, without its rates."""
    rates = frame[list(RATES)].astype(float)
    impossible = ((rates < 0) | (rates > 1)).any(axis=1)
    if not impossible.any():
        return frame
    finished = frame.get("status", pd.Series("FINISHED", index=frame.index)) == "FINISHED"
    failed = pd.DataFrame({"status": "FAILED", "error": NO_RATE}, index=frame.index)
    told = frame.reindex(columns=["status", "error"]).astype(object).where(~(impossible & finished), failed)
    return frame.assign(**rates.where(~impossible), **told)


def read(frame: pd.DataFrame) -> Trials:
    """The trials of a canonical frame.

    Raises:
        InputError: it is no table of trials, holds what no trial can have, or has no trial.
    """
    frame = _with_setting(check_table(frame, REQUIRED))
    if frame.empty:
        raise InputError("no trial: the frame has no row that names its attack and its poison rate")
    check_values(frame)
    frame = frame.reset_index(drop=True)
    codes, values = encode_parameters(frame)
    rows = _rows(frame)
    order = _latest(rows, codes)
    return Trials(rows.loc[order].reset_index(drop=True), codes.loc[order].reset_index(drop=True), values)


def encode_parameters(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[Value]]]:
    """Every parameter of a canonical frame as positions (a column each) among its distinct values, and these."""
    if "data" in frame:
        frame = frame.assign(data=data_labels(frame))
    for content in [name for name in map(str, frame) if name.endswith(CONTENT)]:
        named = content.removesuffix(CONTENT)
        frame = frame.assign(**{named: first_names(frame, named, content)} if named in frame else {})
    values = {name: distinct(frame[name]) for name in _parameters(frame)}
    codes = {name: _codes(frame[name], known) for name, known in values.items()}
    return pd.DataFrame(codes, index=frame.index), with_class_names(values, frame)


def data_labels(frame: pd.DataFrame) -> "pd.Series[str]":
    """The name of each trial's data set: of those with one fingerprint, wherever they lay, the name it had first."""
    return first_names(frame, "data", "fingerprint")


def first_names(frame: pd.DataFrame, named: str, content: str) -> "pd.Series[Any]":
    """The column `named`, in which what has one value in the column `content` bears the name it had first."""
    if content not in frame:
        return frame[named]
    known = frame[[named, content]][frame[content].notna() & (frame[content] != "")]
    if "start_time" in frame:
        known = known.loc[frame["start_time"].loc[known.index].sort_values(kind="stable").index]
    first = known.drop_duplicates(content).set_index(content)[named]
    names = frame[content].map(first).astype(object)
    return names.where(names.notna(), frame[named])


def _with_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a place in a map; those of finished trials that have none are warned of."""
    known = frame["attack.name"].notna() & frame["poison_rate"].notna()
    finished = frame["status"] == "FINISHED" if "status" in frame else True
    if count := int((~known & finished).sum()):  # one that was interrupted before it logged its settings is none
        warnings.warn(f"{count} trials name no attack or no poison rate: left out", stacklevel=2)
    names = pd.Series([str(row) for row in frame.index], index=frame.index, dtype=object)
    given = frame["run_id"].astype(object) if "run_id" in frame else names
    return frame.assign(run_id=given.where(given.notna(), names).astype(object).map(str))[known]


def _parameters(frame: pd.DataFrame) -> list[str]:
    def order(name: str) -> tuple[int, str]:
        family = next((i for i, start in enumerate(FAMILIES) if name.startswith(start)), len(FAMILIES))
        return family, name

    return sorted((name for name in map(str, frame) if name not in RESERVED), key=order)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The reserved columns with their defaults; a trial that finished without its rates counts as failed."""
    rows = pd.DataFrame({name: frame.get(name) for name in RESERVED}, index=frame.index)
    for name in (*RATES, "clean_count", "triggered_count", "seconds", "warning"):
        rows[name] = [math.nan if is_missing(value) else float(value) for value in rows[name].tolist()]
    rows["seed"] = [int(seed) for seed in rows["seed"].tolist()]
    if any(isinstance(time, str) for time in rows["start_time"].tolist()):
        rows["start_time"] = pd.to_datetime(rows["start_time"], format="ISO8601", utc=True)
    rows["status"] = rows["status"].astype(object).fillna("FINISHED").astype(str).str.upper()
    no_trigger = frame["attack.name"] == "none"
    has_rates = rows["clean_accuracy"].notna() & (rows["attack_success"].notna() | no_trigger)
    finished = rows["status"] == "FINISHED"
    rows["error"] = rows["error"].astype(object)
    rows.loc[finished & ~has_rates, ["status", "error"]] = ["FAILED", NO_METRICS]
    return rows.assign(done=finished & has_rates)


def _latest(rows: pd.DataFrame, codes: pd.DataFrame) -> pd.Index:
    """One row a trial (same source and key, or parameters and seed): of the finished ones the latest, if any."""
    ranked = rows.sort_values("start_time", na_position="first", kind="stable")
    ranked = ranked.sort_values("done", kind="stable")
    source = codes.get("source", 0)
    again = ranked.assign(source=source).duplicated(["source", "key"], keep="last")
    ranked = ranked[~(ranked["key"].notna() & again)]
    repeated = codes.loc[ranked.index].assign(seed=ranked["seed"]).duplicated(keep="last")
    return ranked[~repeated].sort_values(["seed", "run_id"]).index


def _parse_column(column: pd.Series) -> pd.Series:
    meaning = {text: parse(text) for text in column.dropna().unique()}
    return pd.Series([meaning.get(text) for text in column], index=column.index, dtype=object)


def _codes(column: pd.Series, values: list[Value]) -> list[int]:
    plain_values = [to_python(value) for value in column]
    known = {identity(value): index_of(value, values) for value in {identity(v): v for v in plain_values}.values()}
    return [MISSING if (at := known[identity(value)]) is None else at for value in plain_values]
