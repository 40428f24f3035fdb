"""The single trials of a sweep: all of them as a table, and those that a person should look at first."""

import numpy as np
import pandas as pd

from analysis import records
from analysis.cells import Cell
from analysis.parameter_names import ParameterNames
from analysis.region_map import DefendedRegionMap
from analysis.values import distinct, to_python
from raybd.errors import InputError

PER_KIND = 3  # runs of each kind


def run_table(runs: pd.DataFrame, name: str = "") -> pd.DataFrame:
    """One row a trial as `raybd.tracking.load_runs` gives them: id, status, seed, what varies, its two rates, error.

    A trial that was run several times is listed each time.

    Raises:
        InputError: there is none.
    """
    if runs.empty:
        raise InputError(f"no trial is logged in {name!r}")
    frame = records.canonical_frame(runs)
    names = ParameterNames(records.read(frame))
    table = frame[["run_id", "status", "seed"]].assign(**{names.short[n]: frame[n] for n in names.shown})
    rates = {"clean accuracy": frame["clean_accuracy"], "attack success": frame["attack_success"]}
    errors = frame["error"].fillna("") if "error" in frame else ""
    table = table.assign(**rates, error=errors)
    return table.sort_values([*(names.short[n] for n in names.shown), "seed"], kind="stable", key=_sort_key)


def run_verdicts(region_map: DefendedRegionMap) -> dict[str, str]:
    """The status of the cell of each finished trial with poison, by run id."""
    poisoned = [cell for cell in region_map.cells if cell.poisoned]
    return {run: cell.verdict.status for cell in poisoned for run in cell.verdict.evidence}


def notable(region_map: DefendedRegionMap) -> list[tuple[str, str]]:
    """Run ids of the worst and the most interesting trials, each with why; at most three of a kind."""
    poisoned = [cell for cell in region_map.cells if cell.poisoned and cell.seeds]
    limit = region_map.rule.max_attack_success
    lowest = sorted((c for c in poisoned if c.verdict.attack_success_excess.value > limit), key=_rate)
    highest = sorted((c for c in poisoned if c.verdict.status == "defended"), key=_rate, reverse=True)
    spread = sorted((c for c in poisoned if np.ptp(c.attack_success) > 0), key=_seed_range, reverse=True)
    least_accurate = sorted(poisoned, key=lambda c: min(c.clean_accuracy))
    failed = [text.partition(": ") for cell in region_map.cells for text in cell.verdict.failures]
    runs = [(_highest_success(c), "the backdoor took at this low a rate") for c in lowest[:PER_KIND]]
    runs += [(_highest_success(c), "defended at this high a rate: its worst seed") for c in highest[:PER_KIND]]
    for cell in spread[:PER_KIND]:
        apart = f"seeds at this setting lie {100 * _seed_range(cell):.0f} points of attack success apart: the"
        runs += [(_run_id(cell, np.argmin(cell.attack_success)), f"{apart} lowest")]
        runs += [(_highest_success(cell), f"{apart} highest")]
    runs += [(_run_id(c, np.argmin(c.clean_accuracy)), "the lowest clean accuracy") for c in least_accurate[:1]]
    return runs + [(run, f"failed: {error}") for run, _, error in failed[:PER_KIND]]


def _highest_success(cell: Cell) -> str:
    return _run_id(cell, np.argmax(cell.attack_success))


def _run_id(cell: Cell, index: "np.intp") -> str:
    return str(cell.verdict.evidence[int(index)])


def _rate(cell: Cell) -> float:
    return float(str(cell.setting["poison_rate"]))


def _seed_range(cell: Cell) -> float:
    return float(np.ptp(cell.attack_success))


def _sort_key(column: pd.Series) -> pd.Series:
    """Numbers by size and words by the alphabet, also where a column holds both."""
    place = {value: i for i, value in enumerate(distinct(column))}
    return pd.Series([place.get(to_python(value), len(place)) for value in column], index=column.index)
