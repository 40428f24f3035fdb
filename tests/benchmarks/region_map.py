"""How long a map of 10,000 trials takes to load from a table and to answer; nobody else has one."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis import DefendedRegionMap
from tests.benchmarks.timing import REPETITIONS, Row, require

AXES: dict[str, list[object]] = {
    "attack.name": list("abcd"),
    "poison_rate": [0, 0.01, 0.02, 0.05, 0.1],
    "model.width": [1, 2, 3, 4],
    "train.weight_decay": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "train.epochs": [1, 2, 3, 4, 5],
    "seed": list(range(5)),
}


def region_map() -> list[Row]:
    """CPU seconds of building the map, of a question to one cell, to many cells, and to a point between cells."""
    frame = pd.MultiIndex.from_product(AXES.values(), names=AXES).to_frame(index=False)
    rng = np.random.default_rng(0)
    level = 3 * np.log10(frame["poison_rate"].clip(1e-3) / 0.05) + rng.normal(0, 0.3, len(frame))
    frame = frame.assign(clean_accuracy=0.9, attack_success=1 / (1 + np.exp(-level)))
    frame = frame.assign(clean_count=1000, triggered_count=900)
    require(len(frame) == 10_000, "the number of trials")
    found = DefendedRegionMap.from_frame(frame)
    cell = {"attack": "a", "width": 2, "weight_decay": 1e-3, "epochs": 3, "poison_rate": 0.02}
    near = cell | {"poison_rate": 0.03}
    first = _seconds(lambda: found.query(interpolate=True, **near), 1)
    return [
        _row("map: load 10,000 trials", _seconds(lambda: DefendedRegionMap.from_frame(frame))),
        _row("map: query one cell", _seconds(lambda: found.query(**cell))),
        _row("map: query all cells of an attack", _seconds(lambda: found.query(attack="a"))),
        _row("map: query between 400 cells, first", first),
        _row("map: query between 400 cells, again", _seconds(lambda: found.query(interpolate=True, **near))),
    ]


def _seconds(task: Callable[[], object], repetitions: int = REPETITIONS) -> list[float]:
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        task()
        seconds.append(time.process_time() - start)
    return seconds


def _row(name: str, seconds: list[float]) -> Row:
    return Row(name, statistics.median(seconds), None, len(seconds), "s")
