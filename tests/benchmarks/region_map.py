"""How long maps of 10,000 and 100,000 trials and of a leaderboard take to load and to answer; nobody else has one."""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import DefendedRegionMap
from tests.benchmarks.timing import REPETITIONS, Row, require

COUNTS = (10_000, 100_000)
CELL = {"attack": "a", "width": 2, "weight_decay": 1e-3, "epochs": 3, "poison_rate": 0.02}
LEADERBOARD = {  # the axes of BackdoorBench's leaderboard and how many values each has
    "dataset": 4,
    "backbone": 4,
    "attack_name": 12,
    "defense_name": 16,
    "ratio": 5,
}


def region_map() -> list[Row]:
    """CPU seconds of building maps and of questions to them, and the memory that a map takes."""
    rows = [row for count in COUNTS for row in _table(count)]
    return [*rows, *_surface(), *_leaderboard()]


def made_trials(count: int) -> pd.DataFrame:
    """So many trials, five seeds a cell; the more, the more values of the axis `epochs`."""
    axes: dict[str, list[object]] = {
        "attack.name": list("abcd"),
        "poison_rate": [0, 0.01, 0.02, 0.05, 0.1],
        "model.width": [1, 2, 3, 4],
        "train.weight_decay": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
        "train.epochs": list(range(1, count // 2000 + 1)),
        "seed": list(range(5)),
    }
    frame = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    rng = np.random.default_rng(0)
    level = 3 * np.log10(frame["poison_rate"].clip(1e-3) / 0.05) + rng.normal(0, 0.3, len(frame))
    require(len(frame) == count, "the number of trials")
    frame = frame.assign(clean_accuracy=0.9, attack_success=1 / (1 + np.exp(-level)))
    return frame.assign(clean_count=1000, triggered_count=900)


def _table(count: int) -> list[Row]:
    frame, before = made_trials(count), _peak()
    seconds = _seconds(lambda: DefendedRegionMap.from_frame(frame), 1)
    memory = _peak() - before
    found, name = DefendedRegionMap.from_frame(frame), f"map of {count:,} trials"
    return [
        _row(f"{name}: load", seconds),
        Row(f"{name}: memory", memory, None, 1, "MiB"),
        _row(f"{name}: other thresholds", _seconds(lambda: found.with_rule(max_attack_success=0.2), 1)),
        _row(f"{name}: query one cell", _seconds(lambda: found.query(**CELL))),
        _row(f"{name}: query all cells of an attack", _seconds(lambda: found.query(attack="a"))),
        _row(f"{name}: boundary", _seconds(found.boundary, 1)),
        _row(f"{name}: robust", _seconds(found.robust, 1)),
    ]


def _surface() -> list[Row]:
    found, near = DefendedRegionMap.from_frame(made_trials(COUNTS[0])), CELL | {"poison_rate": 0.03}
    first = _seconds(lambda: found.query(interpolate=True, **near), 1)
    return [
        _row("map: query between 400 cells, first", first),
        _row("map: query between 400 cells, again", _seconds(lambda: found.query(interpolate=True, **near))),
    ]


def _leaderboard() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.csv"
        made_leaderboard().to_csv(path)
        load = _seconds(lambda: DefendedRegionMap.from_backdoorbench(path), 1)
        found = DefendedRegionMap.from_backdoorbench(path)
    name = f"leaderboard of {len(found.cells):,} rows"
    return [
        _row(f"{name}: load", load),
        _row(f"{name}: other thresholds", _seconds(lambda: found.with_rule(max_attack_success=0.2), 1)),
        _row(f"{name}: boundary", _seconds(found.boundary, 1)),
        _row(f"{name}: boundary on surfaces", _seconds(lambda: found.boundary(interpolate=True), 1)),
        _row(f"{name}: robust", _seconds(found.robust, 1)),
    ]


def made_leaderboard() -> pd.DataFrame:
    """A table as BackdoorBench publishes it, with gaps and runs that gave no number."""
    axes: dict[str, list[object]] = {name: [f"{name}{i}" for i in range(n)] for name, n in LEADERBOARD.items()}
    axes |= {"defense_name": ["no defense", *axes["defense_name"][1:]], "ratio": [0.001, 0.005, 0.01, 0.05, 0.1]}
    frame = pd.MultiIndex.from_product(axes.values(), names=axes).to_frame(index=False)
    rng = np.random.default_rng(0)
    frame = frame[rng.random(len(frame)) < 0.9]
    rates = {name: rng.random(len(frame)) for name in ("test_acc", "test_asr", "test_ra")}
    frame = frame.assign(**rates)
    frame.loc[rng.random(len(frame)) < 0.03, list(rates)] = -1.0
    return frame


def _peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(task: Callable[[], object], repetitions: int = REPETITIONS) -> list[float]:
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        task()
        seconds.append(time.process_time() - start)
    return seconds


def _row(name: str, seconds: list[float]) -> Row:
    return Row(name, statistics.median(seconds), None, len(seconds), "CPU-s")
