"""Verdicts against planted maps: how often they are right, how often intervals hold, how often a good cell is found.

A planted map has the mean attack success and the mean clean accuracy of every cell, drawn here with numpy alone. The
truth of a cell is read off these means; seeds scatter around them, and the map is built from the seeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from analysis import DefendedRegionMap

Floats = NDArray[np.float64]
SHAPES = ("monotone", "island", "hole", "step")
DEVIATIONS = (0.005, 0.01, 0.011, 0.017, 0.02)  # of clean accuracy, between seeds
DRAWS = 10  # of each shape and deviation: 200 maps
CELLS, LOSS, EXCESS, TOP = 40, 0.02, 0.1, 0.93
LOGITS = 0.5  # deviation of attack success between seeds
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


@dataclass(frozen=True)
class Planted:
    """The means of a map: settings down, poison rates across."""

    success: Floats  # (s, r) logits of attack success
    baseline: Floats  # (s,) logits of the clean twins'
    accuracy: Floats  # (s, r)
    twin_accuracy: Floats  # (s,)

    @property
    def excess(self) -> Floats:
        """(s, r) mean attack success above the mean of the twins."""
        return mean_rate(self.success) - mean_rate(self.baseline)[:, None]

    @property
    def loss(self) -> Floats:
        """(s, r) mean accuracy under that of the best setting's twins."""
        return self.twin_accuracy.max() - self.accuracy

    @property
    def truth(self) -> NDArray[np.str_]:
        """(s, r) the right status."""
        kept = np.where(self.loss <= LOSS, "defended", "kept_out")
        return np.where(self.excess > EXCESS, "backdoored", kept)

    def frame(self, seeds: int, deviation: float, rng: np.random.Generator) -> pd.DataFrame:
        """One row a trial: every cell and every twin at each seed."""
        accuracy = np.concatenate([self.twin_accuracy[:, None], self.accuracy], 1)
        success = np.concatenate([self.baseline[:, None], self.success], 1)
        shape = (*accuracy.shape, seeds)
        place = np.indices(shape)
        return pd.DataFrame(
            {
                "attack.name": "badnets",
                "train.weight_decay": np.geomspace(1e-4, 1e-1, shape[0])[place[0]].ravel(),
                "poison_rate": np.r_[0.0, rates(shape[1] - 1)][place[1]].ravel(),
                "seed": place[2].ravel(),
                "clean_accuracy": (accuracy[..., None] + deviation * rng.standard_normal(shape)).clip(0, 1).ravel(),
                "attack_success": expit(success[..., None] + LOGITS * rng.standard_normal(shape)).ravel(),
            }
        )


def mean_rate(logits: Floats) -> Floats:
    """The mean over seeds of a rate whose logit scatters around `logits`."""
    mean: Floats = expit(logits[..., None] + LOGITS * NODES) @ WEIGHTS / WEIGHTS.sum()
    return mean


def rates(number: int) -> Floats:
    """Poison rates of a map."""
    return np.geomspace(0.001, 0.2, number)


def plant(shape: str, settings: int, rng: np.random.Generator) -> Planted:
    """A map of 40 cells: an edge in the poison rate that leans over the settings, half of which cost accuracy."""
    number = CELLS // settings
    baseline = logit(rng.choice([0.005, 0.03, 0.1])) * np.ones(settings)
    edge = rng.uniform(-2.5, -1) + rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, settings)[:, None]
    distance = np.log10(rates(number)) - edge  # decades above the edge
    middle = logit(EXCESS + expit(baseline))[:, None]
    success = middle + rng.uniform(2, 5) * distance
    if shape == "step":
        success = np.where(distance > 0, logit(0.9), baseline[:, None])
    low, high = (rng.integers(0, n, 2) for n in (settings, number))
    block = np.zeros((settings, number), bool)
    block[min(low) : max(low) + 1, min(high) : max(high) + 1] = True
    if shape == "island":
        success = np.where(block & (distance > 0), baseline[:, None], success)
    if shape == "hole":
        success = np.where(block & (distance < 0), logit(0.8), success)
    own = np.where(rng.random(settings) < 0.5, 0, rng.uniform(0, 0.06, settings))
    own -= own.min()
    more = np.where(rng.random((settings, number)) < 0.7, 0, rng.uniform(0, 0.05, (settings, number)))
    return Planted(np.maximum(success, baseline[:, None]), baseline, TOP - own[:, None] - more, TOP - own)


def costless(settings: int) -> Planted:
    """A map whose every cell keeps the accuracy of its twins and has an attack success of about 2 %."""
    flat, wide = np.full(settings, TOP), np.ones((settings, CELLS // settings))
    return Planted(logit(0.02) * wide, logit(0.005) * np.ones(settings), TOP * wide, flat)


def judged(planted: Planted, seeds: int, deviation: float, rng: np.random.Generator, **rule: object) -> pd.DataFrame:
    """The product's table of the poisoned cells beside the truth."""
    found = DefendedRegionMap.from_frame(planted.frame(seeds, deviation, rng), **rule).to_frame()
    found = found[found["poison_rate"] > 0].sort_values(["weight_decay", "poison_rate"], ignore_index=True)
    truth = {"truth": planted.truth, "true_accuracy": planted.accuracy, "true_success": mean_rate(planted.success)}
    truth |= {"true_excess": planted.excess, "true_loss": planted.loss}
    return found.assign(**{name: values.ravel() for name, values in truth.items()})


def maps(seeds: int, settings: int, draws: int = DRAWS, **rule: object) -> Iterator[pd.DataFrame]:
    """The judged tables of `draws` maps of every shape and deviation."""
    for i, shape in enumerate(SHAPES):
        for j, deviation in enumerate(DEVIATIONS):
            for draw in range(draws):
                rng = np.random.default_rng([i, j, draw, seeds, settings])
                table = judged(plant(shape, settings, rng), seeds, deviation, rng, **rule)
                yield table.assign(deviation=deviation)


def share(flags: pd.Series) -> float:
    """The share of true ones; NaN of none."""
    return float(flags.mean()) if len(flags) else float("nan")


def covered(table: pd.DataFrame, rate: str, truth: str) -> float:
    """How often the interval of a rate holds the truth."""
    return share(table[f"{rate}_low"].le(table[truth] + 1e-12) & table[f"{rate}_high"].ge(table[truth] - 1e-12))


def planted_verdicts(draws: int = DRAWS, repetitions: int = 60) -> str:
    """Two tables in Markdown: verdicts on planted maps, and the share of cells without cost that are found."""
    return "\n".join(["Verdicts on 200 planted maps", *_verdict_table(draws), "", *_costless_table(repetitions)])


def _verdict_table(draws: int) -> list[str]:
    head = ["settings, seeds", "called defended", "of these not", "called backdoored", "of these not"]
    lines = [[*head, "90 % of accuracy", "of attack success", "of the loss", "without cost, at 1.1 points"]]
    for settings in (2, 8):
        for seeds in (3, 5):
            table = pd.concat(maps(seeds, settings, draws))
            said = {status: table[table["status"] == status] for status in ("defended", "backdoored")}
            line = [f"{settings}, {seeds}"]
            for status, cells in said.items():
                line += [str(len(cells)), f"{share(cells['truth'] != status):.1%}"]
            rates = {"clean_accuracy": "true_accuracy", "attack_success": "true_success", "accuracy_loss": "true_loss"}
            line += [f"{covered(table, rate, truth):.1%}" for rate, truth in rates.items() if f"{rate}_low" in table]
            good = table[(table["true_loss"] == 0) & (table["true_excess"] < 0.03) & (table["deviation"] == 0.011)]
            lines.append([*line, f"{share(good['status'] == 'defended'):.2f}"])
    return _markdown(lines)


def _costless_table(repetitions: int) -> list[str]:
    cases = [(settings, seeds) for settings in (2, 8) for seeds in (3, 5, 10)]
    lines = [["without cost: deviation", *(f"{settings} settings, {seeds} seeds" for settings, seeds in cases)]]
    for deviation in (0.011, 0.017):
        line = [f"{100 * deviation:g} points"]
        for settings, seeds in cases:
            draw = (np.random.default_rng([n, settings, seeds]) for n in range(repetitions))
            tables = [judged(costless(settings), seeds, deviation, rng) for rng in draw]
            line.append(f"{share(pd.concat(tables)['status'] == 'defended'):.2f}")
        lines.append(line)
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> list[str]:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return [rows[0], "| " + " | ".join("---" for _ in lines[0]) + " |", *rows[1:]]
