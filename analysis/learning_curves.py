"""Tables of learning-curve sweeps: widths of the region without a backdoor, networks over the weight of the poison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.attacks import attack_names
from analysis.grouping import ATTACK, RATE, setting_columns
from analysis.records import canonical_frame, data_labels
from analysis.text_table import align_columns, format_mean_std
from analysis.values import format_value, to_python
from raybd.utils.curves import crossing, log_area, log_slope

Floats = NDArray[np.float64]
Width = Callable[..., float]  # raybd.convex.region.region_width, ...
Band = Callable[..., tuple[float, float]]  # ... and region_width_band, which load torch
SETTING = ("data", "attack", "model", "gamma", "poison_rate", "setting")  # what a region along C is of
LIMITS = (0.1, 0.2)  # allowed attack success
OWN_PARAMETERS = ("data", "fingerprint", "model.name", "model.C", "model.gamma", "train.beta")  # in their own columns
NO_GAMMA = -1.0  # of a learner without one, as in the authors' tables


@dataclass(frozen=True)
class Region:
    """How many decades of C are accurate and without a backdoor, with a 90 % band over seeds."""

    setting: tuple[object, ...]  # SETTING
    limit: float
    width: float
    low: float
    high: float
    seeds: int


def trial_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a finished trial: its settings and every metric by its last name, convex learners and networks alike.

    `runs` as `raybd.tracking.load_runs` gives them. Columns: data, attack (with its size), size, model, C, gamma
    (NO_GAMMA where there is none), poison_rate, beta (1 for convex learners), seed, key, and setting, the other
    parameters that vary; metrics by their names.
    """
    done = runs[runs["status"] == "FINISHED"].reset_index(drop=True)
    table = pd.DataFrame(
        {
            "data": data_labels(canonical_frame(done)),
            "attack": _attacks(done),
            "size": _numbers(done, "params.attack.size"),
            "model": done["params.model.name"],
            "C": _numbers(done, "params.model.C"),
            "gamma": _numbers(done, "params.model.gamma").fillna(NO_GAMMA),
            "poison_rate": done["params.poison_rate"].astype(float),
            "beta": _numbers(done, "params.train.beta").fillna(1.0),
            "seed": done["params.seed"].astype(int),
            "key": done["tags.raybd.key"],
            "setting": _settings(done),
        }
    )
    metrics = done[[name for name in map(str, done) if name.startswith("metrics.")]]
    return table.join(metrics.rename(columns=lambda name: name.removeprefix("metrics.")))


def regions(table: pd.DataFrame, width: Width, band: Band, limits: Sequence[float] = LIMITS) -> list[Region]:
    """The region's width along C at each other setting and each allowed attack success, where the grid has two values.

    Only seeds that were measured at every C count. `width` and `band` are those of raybd/convex/region.py.
    """
    result = []
    poisoned = table[table["C"].notna() & (table["poison_rate"] > 0)]
    for setting, cell in poisoned.groupby(list(SETTING)):
        grid, clean, success, samples = rates_over_c(cell)
        if len(grid) < 2 or not len(clean):
            continue
        for limit in limits:
            options = {"max_attack_success": limit}
            middle = width(grid, clean.mean(0), success.mean(0), samples, **options)
            result.append(Region(setting, limit, middle, *band(grid, clean, success, samples, **options), len(clean)))
    return result


def rates_over_c(cell: pd.DataFrame) -> tuple[Floats, Floats, Floats, int]:
    """The grid of C (S,), clean accuracy and attack success (seeds, S) of the seeds that have all, and test images."""
    tables = [cell.pivot_table(index="seed", columns="C", values=name) for name in ("accuracy/clean", "attack_success")]
    whole = [seed for seed in tables[0].index if all(t.loc[seed].notna().all() for t in tables)]
    clean, success = (t.loc[whole].to_numpy(dtype=float) for t in tables)
    return tables[0].columns.to_numpy(dtype=float), clean, success, int(cell["count/clean"].max())


def region_table(regions: Sequence[Region]) -> str:
    """One line a learner and poison rate: decades of C, in brackets the 5 % and 95 % points over seeds; "" if none."""
    limits = sorted({region.limit for region in regions})
    heads = ["data", "trigger", "learner", "gamma", "rate", "setting", "seeds"]
    lines = [[*heads, *(f"ASR <= {limit:g}" for limit in limits)]]
    for setting in dict.fromkeys(region.setting for region in regions):
        by_limit = {region.limit: region for region in regions if region.setting == setting}
        data, attack, model, gamma, rate, others = setting
        seeds = str(next(iter(by_limit.values())).seeds)
        widths = [f"{r.width:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in (by_limit[limit] for limit in limits)]
        place = [str(data), str(attack), str(model), _gamma(gamma), f"{rate:g}", str(others)]
        lines.append([*place, seeds, *widths])
    return align_columns(lines) if regions else ""


def beta_cells(table: pd.DataFrame) -> pd.DataFrame:
    """One row a network's setting and seed whose weight of the poison was varied: what its trials show together.

    Columns: the setting; beta50, the least beta at which attack success is a half (inf: none); area, the mean attack
    success over log beta; secant, (B(1) - B(0)); secant_least, the same from 0 to the least beta above it over that
    beta; theta and log_slope of it.
    """
    nets = table[table["C"].isna() & (table["poison_rate"] > 0)]
    rows = []
    for setting, cell in nets.groupby(["data", "attack", "model", "poison_rate", "setting", "seed"]):
        cell = cell.drop_duplicates("beta").sort_values("beta")
        if len(cell) > 1:
            names = ("data", "attack", "model", "poison_rate", "setting", "seed")
            rows.append(dict(zip(names, setting, strict=True)) | _of_betas(cell))
    return pd.DataFrame(rows)


def _of_betas(cell: pd.DataFrame) -> dict[str, float]:
    betas, success, loss = (cell[n].to_numpy(dtype=float) for n in ("beta", "attack_success", "loss/triggered"))
    numbers = {"beta50": crossing(betas, success, log=True), "area": log_area(betas, success)}
    if betas[0] == 0:
        least = (loss[1] - loss[0]) / betas[1]
        numbers |= {"secant": (loss[-1] - loss[0]) / betas[-1], "secant_least": least}
        numbers |= {"theta": -2 / np.pi * np.arctan(least), "log_slope": log_slope(least)}
    return numbers


def beta_table(cells: pd.DataFrame) -> str:
    """One line a setting of `beta_cells`: mean ± deviation over seeds of its numbers, of beta50 the median."""
    if cells.empty:
        return ""
    names = [n for n in ("beta50", "area", "secant", "theta", "log_slope") if n in cells]
    lines = [["data", "trigger", "model", "rate", "setting", "seeds", *names]]
    for setting, cell in cells.groupby(["data", "attack", "model", "poison_rate", "setting"]):
        numbers = [_median_crossing(cell[name]) if name == "beta50" else _spread(cell[name]) for name in names]
        lines.append([*(f"{v:g}" if isinstance(v, float) else str(v) for v in setting), str(len(cell)), *numbers])
    return align_columns(lines)


def _spread(values: "pd.Series[float]") -> str:
    return format_mean_std(values.tolist(), scale=1, digits=3)


def _median_crossing(values: "pd.Series[float]") -> str:
    """The median over seeds, inf where half of them or more never get there, and how many those are."""
    never = int(np.isinf(values).sum())
    return f"{np.quantile(values, 0.5, method='higher'):.3g}" + (f" ({never} never)" if never else "")


def _settings(runs: pd.DataFrame) -> "pd.Series[str]":
    """What else tells trials apart, for instance "width=0.5 weight_decay=0.05"."""
    others = setting_columns(runs, OWN_PARAMETERS).drop(columns=[ATTACK, RATE])
    known = {name: others[name].map(to_python) for name in others}
    text = [
        " ".join(f"{name}={format_value(values[at])}" for name, values in known.items() if values[at] is not None)
        for at in runs.index
    ]
    return pd.Series(text, runs.index)


def _attacks(runs: pd.DataFrame) -> "pd.Series[str]":
    """The attack with its settings that vary; of a trigger's size always, without its name."""
    names = attack_names(runs.drop(columns="params.attack.size", errors="ignore"))
    size = runs["params.attack.size"] if "params.attack.size" in runs else pd.Series("None", runs.index)
    return names.where(size.isna() | (size == "None"), names + " " + size.astype(str))


def _numbers(runs: pd.DataFrame, name: str) -> "pd.Series[float]":
    if name not in runs:
        return pd.Series(float("nan"), runs.index)
    return pd.to_numeric(runs[name], errors="coerce")


def _gamma(value: object) -> str:
    return "-" if value == NO_GAMMA else f"{value:g}"
