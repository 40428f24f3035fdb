"""Planted trainings of twenty kinds: does `raybd resist` find their edges, and a change of knobs that holds?

The truth is a grid of 10 poison rates x 5 seeds in this process, other seeds than the search has; raybd itself calls
the scripts. Results are kept, a file a recipe, in RAYBD_RESIST (default build/resist): what is there is not run again.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from analysis.resist.edge import Edge
from analysis.resist.result import ResistResult
from raybd.attacks import parse
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import load
from raybd.scripts.knobs import settings
from raybd.types import Data
from sweeps.resist import resist
from tests.benchmarks.resist_recipes import FAILING, HERE, RECIPES, TWO_CLASS, Recipe, Values, fails, pixels_of

ATTACKS, LIMIT = ("badnets", "blended"), 0.1
RATES, SEEDS, FRESH, FACTOR, LOSS = 10, range(100, 105), range(200, 210), 1.5, 0.05
LOWEST, HIGHEST = 0.002, 0.3


@dataclass(frozen=True)
class Truth:
    """The grid of one attack: mean excess at each number of poisoned images."""

    counts: Sequence[int]
    excess: Sequence[float]
    total: int

    @property
    def bracket(self) -> tuple[float, float]:
        """The rates between which the edge lies; 0 or infinite where it lies outside the grid."""
        over = [count for count, one in zip(self.counts, self.excess, strict=True) if one > LIMIT]
        high = min(over, default=math.inf)
        low = max((count for count in self.counts if count < high), default=0)
        return low / self.total, high / self.total

    def agrees(self, edge: Edge) -> bool:
        """Whether the edge lies within FACTOR of the bracket; where one is open the other is, or near the end."""
        low, high = self.bracket
        at = {"always": 0.0, "never": math.inf}.get(edge.kind, edge.rate)
        if at in (0.0, math.inf):  # open, or the grid's outermost step
            return (
                at in (low, high)
                or (at == 0 and low <= FACTOR * edge.lowest)
                or (at > 0 and high >= edge.highest / FACTOR)
            )
        return low / FACTOR <= at <= high * FACTOR


def measure(recipe: Recipe, values: Values, attack: str, count: int, seed: int, data: Data) -> tuple[float, float]:
    """Attack success and clean accuracy of one training in this process, by the definitions of raybd."""
    spec = PoisonSpec(parse(attack), count / len(data.train), seed)
    train = spec.poison(data.train, len(data.classes)).images if count else data.train
    predict = recipe.truth(pixels_of(train), train.y.numpy(), seed, values)
    triggered, measured = spec.triggered(data.test, len(data.classes)), spec.measured(data.test.y).numpy()
    found = predict(np.concatenate([pixels_of(data.test), pixels_of(triggered)]))
    clean, stamped = found[: len(data.test)], found[len(data.test) :]
    return float((stamped == triggered.y.numpy())[measured].mean()), float((clean == data.test.y.numpy()).mean())


def truth_of(recipe: Recipe, attack: str, edge: Edge, data: Data) -> Truth:
    """The grid between the ends that the search was given."""
    total, values = len(data.train), dict(settings(recipe.parsed(), {}))
    ends = [round(rate * total) for rate in (edge.lowest, edge.highest)]
    counts = sorted({round(count) for count in np.geomspace(*ends, RATES)})
    clean = [measure(recipe, values, attack, 0, seed, data)[0] for seed in SEEDS]
    excess = []
    for count in counts:
        found = [measure(recipe, values, attack, count, seed, data)[0] for seed in SEEDS]
        excess.append(float(np.mean(found) - np.mean(clean)))
    return Truth(counts, excess, total)


def fresh(recipe: Recipe, values: Values, data: Data, seeds: Sequence[int] = FRESH) -> tuple[float, float]:
    """The largest excess over attacks at the target rate, and the accuracy loss, on fresh seeds."""
    count, default = round(recipe.target * len(data.train)), dict(settings(recipe.parsed(), {}))
    excess, loss = [], 0.0
    for attack in ATTACKS:
        clean = [measure(recipe, values, attack, 0, seed, data) for seed in seeds]
        usual = [measure(recipe, default, attack, 0, seed, data)[1] for seed in seeds]
        poisoned = [measure(recipe, values, attack, count, seed, data)[0] for seed in seeds]
        excess.append(float(np.mean(poisoned) - np.mean([one[0] for one in clean])))
        loss = float(np.mean(usual) - np.mean([one[1] for one in clean]))
        if excess[-1] > LIMIT and len(seeds) < len(FRESH):
            break  # of a scan: one attack is enough to say no
    return max(excess), loss


def exists(recipe: Recipe, data: Data) -> bool:
    """Whether some setting of a grid of 8 values a knob (5 of each of two) holds on ten fresh seeds."""
    knobs = recipe.parsed()
    steps = 8 if len(knobs) == 1 else 5
    default = dict(settings(knobs, {}))
    usual = measure(recipe, default, ATTACKS[0], 0, FRESH[0], data)[1]
    for places in product(np.linspace(0, 1, steps), repeat=len(knobs)):
        values = dict(settings(knobs, {knob.name: float(p) for knob, p in zip(knobs, places, strict=True)}))
        if usual - measure(recipe, values, ATTACKS[0], 0, FRESH[0], data)[1] > 2 * LOSS:
            continue
        if _holds(*fresh(recipe, values, data, FRESH[:3])) and _holds(*fresh(recipe, values, data)):
            return True
    return False


def _holds(excess: float, loss: float) -> bool:
    return excess <= LIMIT and loss <= LOSS


def search(name: str, recipe: Recipe, folder: Path, **more: Any) -> ResistResult:
    """What raybd finds by calling the scripts."""
    return resist(
        recipe.train,
        recipe.predict,
        data=recipe.data,
        layout=recipe.layout,
        attacks=ATTACKS,
        poison_rates=(LOWEST, HIGHEST),
        knob=recipe.knobs,
        defaults=recipe.defaults,
        target_rates=(recipe.target,),
        name=name,
        results=str(folder / "results"),
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
        figures="none",
        **more,
    )


def judged(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The answers for one recipe beside the truth, kept in the folder."""
    kept = folder / f"{name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    data, result = digits(recipe.data), search(name, recipe, folder)
    edges = {}
    for edge in result.edges:
        truth = truth_of(recipe, edge.attack, edge, data)
        row = {part: getattr(edge, part) for part in ("kind", "rate", "low", "high", "trainings")}
        edges[edge.attack] = row | {"bracket": truth.bracket, "excess": truth.excess, "agrees": truth.agrees(edge)}
    found = {"edges": edges, "failures": result.failures, "said": result.sentences(), "trainings": result.trainings}
    if recipe.knobs:
        found["change"] = _judged_change(recipe, result, data)
    shutil.rmtree(folder / "results" / name, ignore_errors=True)  # half a gigabyte in all
    kept.write_text(json.dumps(found, indent=1))
    return found


def _judged_change(recipe: Recipe, result: ResistResult, data: Data) -> dict[str, Any]:
    change = result.change
    proposed = change is not None and change.verified
    row: dict[str, Any] = {"proposed": dict(change.knobs) if change and proposed else None}
    if change and proposed:
        excess, loss = fresh(recipe, dict(change.knobs), data)
        return row | {"excess": excess, "loss": loss, "holds": excess <= LIMIT, "exists": True}
    return row | {"holds": False, "exists": exists(recipe, data)}


def failing(what: str, folder: Path) -> dict[str, str]:
    """The failures of a training that fails, by their labels."""
    script = f"{sys.executable} {HERE}/failing.py {what}"
    recipe = Recipe(f"{script} {{data}}; ls {{out}}", f"{script} {{out}} {{data}} {{predictions}}", fails, ())
    if what in ("crash", "hang"):
        recipe = Recipe(f"{script} # {{data}} {{out}}", recipe.predict, fails, ())
    return dict(search(f"failing_{what}", recipe, folder, time_limit=4.0).failures)


@cache
def digits(name: str) -> Data:
    """The data of the recipes."""
    return load(name)


def resist_table(names: Sequence[str] = ()) -> str:
    """A line a recipe and attack, then the changes, the clean training and the failing ones, in Markdown."""
    folder = Path(os.environ.get("RAYBD_RESIST", "build/resist")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in names or RECIPES:
        rows[name] = judged(name, RECIPES[name], folder)
        print(_line(name, rows[name]), flush=True)
    clean = judged("two_class", TWO_CLASS, folder)
    parts = [_edge_table(rows), _change_table(rows), _totals(rows, clean)]
    parts += [f"- `{what}`: {_failures(failing(what, folder))}" for what in FAILING]
    return "\n\n".join(parts[:3]) + "\n" + "\n".join(parts[3:])


def _failures(found: Mapping[str, str]) -> str:
    said = "; ".join(f"{label}: {error.splitlines()[0]}" for label, error in found.items())
    return f"{len(found)} failed trial: {said}"


def _line(name: str, row: Mapping[str, Any]) -> str:
    edges = ", ".join(f"{attack} {'agrees' if one['agrees'] else 'DIFFERS'}" for attack, one in row["edges"].items())
    change = row.get("change", {})
    return f"{name}: {edges}; change {change.get('proposed')} holds {change.get('holds')} exists {change.get('exists')}"


def _edge_table(rows: Mapping[str, Any]) -> str:
    lines = [
        "| recipe | attack | edge (90 %) | grid's bracket | trainings | within 1.5 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        for attack, one in row["edges"].items():
            low, high = one["bracket"]
            edge = (
                one["kind"] if one["kind"] != "edge" else f"{one['rate']:.2%} ({one['low']:.2%} to {one['high']:.2%})"
            )
            agrees = "yes" if one["agrees"] else "**no**"
            lines.append(f"| {name} | {attack} | {edge} | {low:.2%} to {high:.2%} | {one['trainings']} | {agrees} |")
    return "\n".join(lines)


def _change_table(rows: Mapping[str, Any]) -> str:
    lines = [
        "| recipe | change proposed | excess on 10 fresh seeds | accuracy lost | holds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        one = row["change"]
        if one["proposed"] is None:
            exists_ = "one exists on a grid" if one["exists"] else "none exists on a grid"
            lines.append(f"| {name} | none ({exists_}) | - | - | {'**no**' if one['exists'] else '-'} |")
            continue
        values = ", ".join(f"{knob}={value:g}" for knob, value in one["proposed"].items())
        holds = "yes" if one["holds"] else "**no**"
        lines.append(
            f"| {name} | {values} | {100 * one['excess']:.1f} points | {100 * one['loss']:.1f} points | {holds} |"
        )
    return "\n".join(lines)


def _called(edge: Mapping[str, Any]) -> str:
    """Whether a verdict says surely that the backdoor takes hold at some rate."""
    sure = edge["kind"] == "always" or (edge["kind"] == "edge" and math.isfinite(edge["high"]))
    return f"from {edge['high']:.2%} on" if sure else "at no rate"


def _totals(rows: Mapping[str, Any], clean: Mapping[str, Any]) -> str:
    right = sum(all(one["agrees"] for one in row["edges"].values()) for row in rows.values())
    changes = [row["change"] for row in rows.values() if row["change"]["exists"]]
    held = sum(one["holds"] for one in changes)
    kinds = ", ".join(f"{attack} {_called(one)}" for attack, one in clean["edges"].items())
    return (
        f"Edges of both attacks within a factor 1.5 of the grid's bracket: {right} of {len(rows)} recipes. Proposed "
        f"changes that hold on 10 fresh seeds: {held} of {len(changes)} where one exists. The clean two-class training "
        f"is called backdoored: {kinds}."
    )
