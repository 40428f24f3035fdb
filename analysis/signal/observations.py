"""Observations: a row a trial and epoch, with its measures and the final verdict on its setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import Cell
from analysis.region_map import DefendedRegionMap
from analysis.signal import csv_files
from analysis.signal.measures import RANDOM, SLOPES, measured
from analysis.verdict import DECIDED
from raybd.utils.metric_names import ATTACK_SUCCESS

KEYS = ("trial", "epoch", "cell", "attack", "poison_rate", "setting", "takes_hold", "success")
NO_ATTACK = "none"


def observe(histories: pd.DataFrame, region_map: DefendedRegionMap) -> pd.DataFrame:
    """A row a trial and epoch: KEYS, and a column a measure; empty where no setting with poison has a sure verdict.

    `takes_hold` is the verdict on the trial's cell: backdoored, against defended or kept out; trials of undecided cells
    are left out, clean ones are there as attack `none` at rate 0. `setting`: the axes that are not the attacker's.
    `success` is the trial's attack success at the end. A random number beside the measures is a control.

    Args:
        histories: run_id, epoch and a column a metric, as `raybd.tracking.load_histories` gives them.
        region_map: of the same trials.
    """
    labels = _labels(region_map)
    rows = histories.merge(labels, on="run_id").sort_values(["trial", "epoch"], ignore_index=True)
    if rows.empty:
        return pd.DataFrame(columns=[*KEYS, RANDOM])
    rows["success"] = rows.groupby("trial")[ATTACK_SUCCESS].transform("last")
    for name, of in SLOPES.items():
        rows[name] = _slope(rows, of)
    rows[RANDOM] = np.random.default_rng(0).random(len(rows))
    found = rows[[*KEYS, *measured(map(str, rows.columns))]]
    return found.dropna(axis=1, how="all").dropna(subset=["success"])


def with_poison(observations: pd.DataFrame) -> pd.DataFrame:
    """Those of trials with poison, their cells numbered without a gap."""
    found = observations[observations["poison_rate"] > 0]
    return found.assign(cell=found["cell"].rank(method="dense").astype(int) - 1)


def last_epochs(runs: pd.DataFrame) -> pd.DataFrame:
    """The last metrics of runs as `raybd.tracking.load_runs` gives them, in the form of histories of one epoch."""
    metrics = {str(name): str(name).removeprefix("metrics.") for name in runs if str(name).startswith("metrics.")}
    return runs[["run_id", *metrics]].rename(columns=metrics).assign(epoch=0)


def _labels(region_map: DefendedRegionMap) -> pd.DataFrame:
    """run_id, trial, cell, attack, rate, other settings and verdict of the trials of each decided cell with poison."""
    axes = [n for n in region_map.table.names.varying if n not in region_map.table.names.threat]
    rows: list[tuple[Any, ...]] = []
    for number, cell in enumerate(filter(_decided, region_map.cells)):
        setting = ", ".join(f"{name}={cell.setting[name]}" for name in axes)
        holds = cell.verdict.status == "backdoored"
        attack = cell.setting["attack.name"] if cell.poisoned else NO_ATTACK
        place = attack, cell.setting["poison_rate"] if cell.poisoned else 0.0, setting, holds
        rows += [(run_id, len(rows) + i, number, *place) for i, run_id in enumerate(cell.verdict.evidence)]
    return pd.DataFrame(rows, columns=["run_id", "trial", "cell", "attack", "poison_rate", "setting", "takes_hold"])


def _decided(cell: Cell) -> bool:
    return not cell.poisoned or cell.verdict.status in DECIDED


def _slope(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    """The change of a metric an epoch, since the probe before; NaN at the first."""
    if name not in rows:
        return pd.Series(np.nan, index=rows.index)
    known = rows[["trial", "epoch", name]].dropna()
    steps = known.groupby("trial")[["epoch", name]].diff()
    return (steps[name] / steps["epoch"]).reindex(rows.index)


def write_observations(observations: pd.DataFrame, path: str | Path) -> Path:
    """Write the observations as CSV, to be read by `read_observations`; where they are.

    Raises:
        InputError: the file cannot be written.
    """
    return csv_files.write(observations, path)


def read_observations(path: str | Path) -> pd.DataFrame:
    """The observations that `write_observations` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    found = csv_files.read(path, "observations", KEYS)
    return found.assign(setting=found["setting"].astype("object").fillna(""))
