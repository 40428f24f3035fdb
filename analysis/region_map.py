"""The defended-region map: at which attacks, poison rates and settings the backdoor does not take hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from analysis import boundary, compare, leaderboard, ranking, records
from analysis.axes import Names
from analysis.boundary import Resistance
from analysis.cells import Cell, Rule, build
from analysis.compare import Comparison
from analysis.index import CellIndex
from analysis.interpolate import NoSurfaceError, Patch, chosen, interpolated, through
from analysis.reference import Policy, best_twins
from analysis.slices import MapSlice
from analysis.values import Value, scale, written
from analysis.verdict import Verdict, pooled
from raybd.errors import InputError

SOURCE = "source"  # the axis whose values are never mixed


class Thresholds(TypedDict, total=False):
    """What a seed is judged by; `DefendedRegionMap` says what each is."""

    max_accuracy_loss: float
    max_attack_success: float
    reference: Policy
    seed_spread: float | None


class DefendedRegionMap:
    """Verdicts on measured settings; it never extrapolates.

    A seed is defended if its clean accuracy is at least `reference - max_accuracy_loss` and its attack
    success at most `max_attack_success`. A setting is `defended` or `undefended` if Jeffreys' 90 % interval
    of the chance that a seed is defended lies above or below a half (and, to be defended, no seed's attack
    success is over twice the threshold), else `uncertain`; without a finished trial it is `unmeasured`.

    Args:
        frame: one row a trial. Needed: seed, clean_accuracy, attack_success (both in [0, 1]), attack.name,
            poison_rate. Optional: run_id, status (FINISHED, FAILED, ...), key, clean_count, triggered_count
            (test images behind each rate), error, start_time. Every other column is a parameter by its
            full name; trials whose parameter `source` differs are never mixed.
        max_accuracy_loss: allowed loss of clean accuracy, in [0, 1].
        max_attack_success: allowed attack success, in [0, 1].
        reference: what the loss is measured from, always trained without a defence. "best": the best clean twins
            over all settings; "twin": the clean twin of the same setting and seed; "undefended": the best training
            without a defence, poisoned or not, of the same network.
        seed_spread: deviation between seeds by which a cell of a single seed is judged; None: one seed never decides.

    Attributes:
        axes: the parameters that vary, by the names they go by, with their measured values in order.
        scales: how each axis is laid out: log, linear or category.
        reference: accuracy of the best clean twins of each data set.
        cells: every setting that has a trial.
        rule: the thresholds.
    """

    def __init__(self, frame: pd.DataFrame, **rule: Unpack[Thresholds]) -> None:
        self.rule = Rule(**rule)
        trials = records.read(frame)
        self.names = Names(trials)
        self.reference = best_twins(trials)
        shown = {n: self.names.short[n] for n in self.names.shown}
        self.cells = tuple(build(trials, shown, self.rule))
        self.axes = {self.names.short[name]: trials.values[name] for name in self.names.varying}
        self._scales = {name: self._scale(name, trials.values[name]) for name in self.names.varying}
        self.scales = {self.names.short[name]: found for name, found in self._scales.items()}
        self._values = trials.values
        self._index = CellIndex(self.cells, trials.values, self.names.short)
        self._patches: dict[tuple[int, ...], Patch] = {}

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **rule: Unpack[Thresholds]) -> "DefendedRegionMap":
        """The map of a table of trials; `rule` as the class takes it."""
        return cls(frame, **rule)

    @classmethod
    def from_mlflow(
        cls, experiment: str | Sequence[str], tracking_uri: str | None = None, **rule: Unpack[Thresholds]
    ) -> "DefendedRegionMap":
        """The map of the trials that one sweep or several logged; `rule` as the class takes it."""
        Rule(**rule)  # a threshold out of range is told before the store is read
        return cls(records.load(experiment, tracking_uri), **rule)

    @classmethod
    def from_backdoorbench(cls, csv: str | Path, **rule: Unpack[Thresholds]) -> "DefendedRegionMap":
        """The map of BackdoorBench's published leaderboard (dataset, backbone, attack, defence, ratio, acc, asr, ra).

        It has one seed a cell, which decides only where it is far from the thresholds, and no clean training: the
        accuracy is measured from the best undefended one of the same network.
        """
        usual: Thresholds = {"reference": "undefended", "seed_spread": leaderboard.SPREAD}
        usual.update(rule)
        return cls(leaderboard.read(csv), **usual)

    @classmethod
    def from_layers(cls, layers: Mapping[str, pd.DataFrame], **rule: Unpack[Thresholds]) -> "DefendedRegionMap":
        """Several tables side by side, each a value of the axis `source`: compared, never mixed."""
        return cls(pd.concat([frame.assign(source=name) for name, frame in layers.items()], ignore_index=True), **rule)

    def measured(self, parameter: str) -> list[Value]:
        """The measured values of any parameter, by its full name, in order; none if there is no such one."""
        return self._values.get(parameter, [])

    def find(self, asked: Mapping[str, Value]) -> list[Cell]:
        """The cells at the values `asked`, by full names of parameters."""
        return self._index.find(asked)

    def query(self, interpolate: bool = False, **setting: Value) -> Verdict:
        """The verdict at a setting; over every value of an axis that is left out, the conservative one.

        With `interpolate`, a point between measured cells is read off a surface through them, if numbers alone part
        it from them and it lies in their hull: such a verdict says so.

        Raises:
            InputError: there is no such axis, or cells of several sources would be mixed.
        """
        return self.answer(self.names.settings(setting), interpolate)

    def answer(self, asked: Mapping[str, Value], interpolate: bool = False) -> Verdict:
        """What `query` says, of a setting by full names."""
        named = {self.names.short[name]: value for name, value in asked.items()}
        cells = self._index.find(asked)
        if not cells:
            return self._between(asked, named) if interpolate else self._unmeasured(asked, named)
        self._one_source(cells)
        if len(cells) == 1:
            return cells[0].verdict
        choices = {n: len({cell.setting[n] for cell in cells}) for n in self.names.varying if n not in asked}
        free = {self.names.short[name]: number for name, number in choices.items() if number > 1}
        return pooled([cell.verdict for cell in cells], named, free)

    def patch(self, asked: Mapping[str, Value]) -> Patch:
        """The surfaces through the cells that only numbers part from the setting `asked`, by full names.

        Raises:
            NoSurfaceError: there are none, and why.
        """
        cells, axes = chosen(self._beside(asked), asked, self._scales, self.names.short)
        key = tuple(map(id, cells))
        if key not in self._patches:
            self._patches[key] = through(cells, axes, self.rule)
        return self._patches[key]

    def slice(self, x: str, y: str, **fixed: Value) -> MapSlice:
        """The grid of verdicts over the measured values of two axes, the others at `fixed` or left out."""
        (x_full, y_full), held = self.names.full([x, y]), self.names.settings(fixed)
        if x_full == y_full or {x_full, y_full} & set(held):
            raise InputError(f"x={x} and y={y} must be two axes, and not fixed")
        xs, ys = self.measured(x_full), self.measured(y_full)
        return MapSlice(
            x_name=self.names.short[x_full],
            y_name=self.names.short[y_full],
            x=xs,
            y=ys,
            fixed={self.names.short[name]: value for name, value in held.items()},
            verdicts=[[self.answer({**held, x_full: u, y_full: v}) for u in xs] for v in ys],
        )

    def boundary(self, along: str = "poison_rate", interpolate: bool = False, **fixed: Value) -> pd.DataFrame:
        """The largest defended value of the axis `along`, one row a setting of the axes not `fixed`.

        `low`: up to there all is defended; `high`: from there on all is undefended, infinite if that was not reached;
        `holes`: values below the largest that are not defended. With `interpolate` all three are read off a surface,
        `low` and `high` where its 90 % bands leave the thresholds.
        """
        (name,) = self.names.full([along])
        return boundary.boundary(self, name, self.names.settings(fixed), interpolate)

    def resistance(self, attack: Value, model: Value | None = None, **fixed: Value) -> Resistance:
        """The largest poison rate at which some setting (of the network `model`) is defended against `attack`."""
        chosen: Mapping[str, Value] = {} if model is None else {"model.name": model}
        full = self.names.settings({"attack.name": attack, **chosen, **fixed})
        self._one_source(self.find(full))
        return boundary.resistance(self, attack, full)

    def robust(self, over: str = "attack") -> pd.DataFrame:
        """The settings of the other axes, with poison, and how many values of the axis `over` they hold off.

        `robust` is true where every value of `over` that was measured with poison was measured here and is
        defended. Axes that belong to `over` (the settings of an attack) are pooled: all must be defended.
        """
        (name,) = self.names.full([over])
        return ranking.robust(self, name)

    def best(self, **fixed: Value) -> pd.DataFrame:
        """The settings of the axes that a defender chooses, best first, each judged on all its cells with poison."""
        return ranking.best(self, self.names.settings(fixed))

    def compare(
        self, first: Value | Mapping[str, Value], second: Value | Mapping[str, Value], **fixed: Value
    ) -> Comparison:
        """Two defences, by name or as {axis: value}, paired by cell and seed; differences are first less second."""
        sides = [side if isinstance(side, Mapping) else {"defence.name": side} for side in (first, second)]
        one, other = map(self.names.settings, sides)
        return compare.compare(self, one, other, self.names.settings(fixed))

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: the axes, the verdict's numbers, and how many trials failed."""
        shorts = {name: self.names.short[name] for name in self.names.varying}
        return pd.DataFrame(
            {short: cell.setting[name] for name, short in shorts.items()}
            | cell.verdict.row()
            | {"failures": cell.failures}
            for cell in self.cells
        )

    def to_parquet(self, path: str | Path) -> None:
        """Write `to_frame` as a Parquet file; axes that are not numbers as text.

        Raises:
            InputError: pyarrow is not installed, or the file cannot be written.
        """
        frame = self.to_frame()
        for name in [n for n, found in self.scales.items() if found == "category"]:
            frame[name] = [None if value is None else written(value) for value in frame[name]]
        try:
            frame.to_parquet(path, index=False)
        except ImportError as error:
            raise InputError("a Parquet file needs pyarrow: pip install pyarrow (or use to_frame().to_csv)") from error
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error}") from error

    def _scale(self, name: str, values: Sequence[Value]) -> str:
        found = scale(values)
        return "log" if name == "poison_rate" and found == "linear" else found

    def _unmeasured(self, asked: Mapping[str, Value], named: Mapping[str, Value]) -> Verdict:
        return Verdict(setting=named, status="unmeasured", reason=self._index.why_none(asked))

    def _beside(self, asked: Mapping[str, Value]) -> list[Cell]:
        """The cells that match all but the numbers of `asked`."""
        return self._index.find({n: v for n, v in asked.items() if self._scales.get(n, "category") == "category"})

    def _between(self, asked: Mapping[str, Value], named: Mapping[str, Value]) -> Verdict:
        measured = self._unmeasured(asked, named)
        try:
            surface = self.patch(asked)
        except NoSurfaceError as error:
            return Verdict(setting=named, status="unmeasured", reason=f"{measured.reason}; {error}")
        if not surface.contains(asked):
            why = "outside the hull of what was measured, and never extrapolated"
            return Verdict(setting=named, status="unmeasured", reason=f"{measured.reason}; {why}")
        return interpolated(surface, asked, named, self._beside(asked))

    def _one_source(self, cells: Sequence[Cell]) -> None:
        if SOURCE in self._values and len(found := {cell.setting[SOURCE] for cell in cells}) > 1:
            listed = ", ".join(sorted(map(str, found)))
            raise InputError(f"several sources answer, which are never mixed: say source= one of {listed}")
