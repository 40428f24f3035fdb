"""The defended-region map: at which attacks, poison rates and settings the backdoor does not take hold."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from analysis import arguments, boundary, compare, leaderboard, panels, ranking, records, slices, svg, trial_file
from analysis.boundary import Resistance
from analysis.cell_table import CellTable
from analysis.compare import Comparison
from analysis.decision import DecisionRule
from analysis.parquet import write_parquet
from analysis.records import Trials
from analysis.reference import Policy
from analysis.robustness import Robustness
from analysis.slices import MapSlice
from analysis.values import Value, format_value
from analysis.verdict import Verdict


class RuleOptions(TypedDict, total=False):
    """The fields of `DecisionRule`; `DefendedRegionMap` says what each is."""

    max_accuracy_loss: float
    max_attack_success: float
    reference: Policy
    min_probability: float
    false_discovery_rate: float | None
    seed_spread: float | None
    accuracy_spread: float | None


class DefendedRegionMap:
    """The verdict on every measured setting of a backdoor sweep; it never extrapolates.

    A setting is judged by its means over seeds: how far attack success exceeds that of the clean twins (the same
    setting without poison), and how far clean accuracy lies under a reference. It is `backdoored` if the excess is
    above `max_attack_success`, `defended` if it is not and the loss is at most `max_accuracy_loss`, `kept_out` if it
    is not but accuracy is lost; `uncertain` if none of the three has `min_probability`, `unmeasured` without a
    finished trial. Settings without poison are judged by accuracy alone, and enter no share.

    Args:
        frame: one row a trial. Needed: seed, clean_accuracy, attack_success (both in [0, 1]), attack.name,
            poison_rate. Optional: run_id, status (FINISHED, FAILED, ...), key, clean_count, triggered_count
            (test images behind each rate), error, start_time. Every other column is a parameter by its
            full name; trials whose parameter `source` differs are never mixed.
        max_accuracy_loss: allowed loss of clean accuracy, in [0, 1].
        max_attack_success: allowed excess of attack success over the clean twins', in [0, 1].
        reference: what the loss is measured from, always trained without a defence. "best": the best clean twins
            over all settings; "twin": the clean twins of the same setting, paired by seed; "no_defence": the best
            training without a defence, poisoned or not, of the same network.
        min_probability: that a status needs to be given, above 1/2.
        false_discovery_rate: expected share of wrong ones among the cells called defended, over the whole map
            (Benjamini-Hochberg); None: each cell by itself.
        seed_spread: deviation between seeds of an attack success of one half, by which a cell of a single seed is
            judged (at p it is 4 p (1 - p) times that); None: what the cells of several seeds tell, if there are any.
        accuracy_spread: likewise of clean accuracy; None: `seed_spread`.

    Attributes:
        axes: the parameters that vary, by their short names, with their measured values in order.
        scales: how each axis is laid out: log, linear or category.
        reference: accuracy of the best clean twins of each data set.
        cells: every setting that has a trial.
        rule: the thresholds.
        table: the cells with the names and scales of their parameters, which functions of the map read.
    """

    def __init__(self, frame: pd.DataFrame, **rule: Unpack[RuleOptions]) -> None:
        self._set(records.read(frame), DecisionRule(**rule))

    def _set(self, trials: Trials, rule: DecisionRule) -> None:
        self.rule, self.table = rule, CellTable(trials, rule)
        self.axes, self.cells, self.reference = self.table.axes, self.table.cells, self.table.reference
        self.scales = {self.table.names.short[name]: scale for name, scale in self.table.scales.items()}

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **rule: Unpack[RuleOptions]) -> "DefendedRegionMap":
        """The map of a table of trials; `rule` as the class takes it."""
        return cls(frame, **rule)

    @classmethod
    def from_mlflow(
        cls, experiment: str | Sequence[str], tracking_uri: str | None = None, **rule: Unpack[RuleOptions]
    ) -> "DefendedRegionMap":
        """The map of the trials that one sweep or several logged; `rule` as the class takes it."""
        DecisionRule(**rule)  # a threshold out of range is told before the store is read
        arguments.check_store(experiment, tracking_uri)
        return cls(records.load(experiment, tracking_uri), **rule)

    def with_rule(self, **rule: Unpack[RuleOptions]) -> "DefendedRegionMap":
        """The map of the same trials under other thresholds: those given are changed, the others stay.

        Nothing is read again, neither a store nor a table.
        """
        changed = object.__new__(type(self))
        changed._set(self.table.trials, DecisionRule(**{**vars(self.rule), **rule}))
        return changed

    @classmethod
    def from_backdoorbench(cls, csv: str | Path, **rule: Unpack[RuleOptions]) -> "DefendedRegionMap":
        """The map of BackdoorBench's published leaderboard (dataset, backbone, attack, defence, ratio, acc, asr, ra).

        It has one seed a cell, judged by how far published seeds stray, and no clean training: accuracy is measured
        from the best one without a defence of the same network, and nothing is taken off attack success.
        """
        options: RuleOptions = {"reference": "no_defence", "seed_spread": leaderboard.SPREAD}
        options["accuracy_spread"] = leaderboard.ACCURACY_SPREAD
        options.update(rule)
        return cls(leaderboard.read(csv), **options)

    @classmethod
    def from_file(cls, path: str | Path, **rule: Unpack[RuleOptions]) -> "DefendedRegionMap":
        """The map of a table of trials in a file, .csv, .csv.gz or .parquet, as `raybd table` writes it."""
        return cls(trial_file.read(path), **rule)

    @classmethod
    def from_layers(cls, layers: Mapping[str, pd.DataFrame], **rule: Unpack[RuleOptions]) -> "DefendedRegionMap":
        """Several tables side by side, each a value of the axis `source`: compared, never mixed."""
        arguments.check_layers(layers, records.REQUIRED)
        return cls(pd.concat([frame.assign(source=name) for name, frame in layers.items()], ignore_index=True), **rule)

    @property
    def aliases(self) -> dict[str, Mapping[str, Value]]:
        """The named settings of defences that queries take as `defence`, such as "vibe:winner", by short names."""
        names = self.table.names
        return {alias: names.short_setting(settings) for alias, (settings, *_) in names.aliases.known.items()}

    def query(self, interpolate: bool = False, **setting: Value) -> Verdict:
        """The verdict at a setting; over every value of an axis that is left out, the conservative one.

        `defence` may be a named setting of a search: `defence="vibe:winner"`.

        With `interpolate`, a point between measured cells is read off a Gaussian process through them, if they differ
        from it in numbers alone and it lies in their hull: such a verdict says so.

        Raises:
            InputError: there is no such axis, or cells of several sources would be mixed.
        """
        arguments.check_flag("interpolate", interpolate)
        return self.table.answer(self.table.names.full_setting(setting), interpolate)

    def slice(self, x: str, y: str, **fixed: Value) -> MapSlice:
        """The grid of verdicts over the measured values of two axes, the others at `fixed` or left out.

        Raises:
            InputError: there is no such axis, `x` and `y` are not two, or nothing was measured at `fixed`.
        """
        self.table.require(self.table.names.full_setting(fixed))
        return slices.map_slice(self.table, x, y, fixed)

    def boundary(self, along: str = "poison_rate", interpolate: bool = False, **fixed: Value) -> pd.DataFrame:
        """The largest defended value of the axis `along`, one row a setting of the axes not `fixed`.

        `low`: up to there all is defended; `high`: from there on all is `kept_out` or `backdoored`, infinite if that
        was not reached; `holes`: values below the largest that are not defended. With `interpolate` all three are read
        off a Gaussian process, `low` and `high` where its 90 % bands leave the thresholds.
        """
        arguments.check_flag("interpolate", interpolate)
        (name,) = self.table.names.full_names([along])
        return boundary.boundary_table(self.table, name, self.table.names.full_setting(fixed), interpolate)

    def resistance(self, attack: Value, model: Value | None = None, **fixed: Value) -> Resistance:
        """The largest poison rate at which some setting (of the network `model`) is defended against `attack`."""
        network: Mapping[str, Value] = {} if model is None else {"model.name": model}
        setting = self.table.names.full_setting({"attack.name": attack, **network, **fixed})
        return boundary.resistance(self.table, attack, setting)

    def robust(self, over: str = "attack") -> pd.DataFrame:
        """The settings of the other axes, with poison, and against how many values of the axis `over` they defend.

        `robust` is true where every value of `over` that was measured with poison was measured here and is
        defended. Axes that belong to `over` (the settings of an attack) are pooled: all must be defended.
        """
        (name,) = self.table.names.full_names([over])
        return ranking.robust(self.table, name)

    def best(self, **fixed: Value) -> pd.DataFrame:
        """The settings of the axes that a defender chooses, best first, each judged on all its cells with poison.

        Columns: these axes; the verdict's numbers; `cells`, and how many of them are `defended`, by which settings are
        ranked first; `seconds` of a trial; `alias`, the names that a search gave the setting.
        """
        return ranking.best(self.table, self.table.names.full_setting(fixed))

    def most_robust(self, **fixed: Value) -> Robustness:
        """The first of `best`: printed, it says what the setting is, what it costs, and what it fails against.

        Raises:
            InputError: nothing was measured there.
        """
        return ranking.most_robust(self.table, self.table.names.full_setting(fixed))

    def compare(
        self, first: Value | Mapping[str, Value], second: Value | Mapping[str, Value], **fixed: Value
    ) -> Comparison:
        """Two defences, by name or as {axis: value}, paired by cell and seed; differences are first less second."""
        sides = [side if isinstance(side, Mapping) else {"defence.name": side} for side in (first, second)]
        one, other, rest = map(self.table.names.full_setting, [*sides, fixed])
        return compare.compare(self.table, one, other, rest, sides)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: the axes, the verdict's numbers, and how many trials failed."""
        names = self.table.names
        return pd.DataFrame(
            names.short_setting({name: cell.setting[name] for name in names.varying})
            | cell.verdict.row()
            | {"failures": cell.failures}
            for cell in self.cells
        )

    def _repr_html_(self) -> str:
        rows = panels.panels(self.table)
        said = "".join(f"<li>{escape(line)}</li>" for line in panels.subtitle(self.table, rows[0][0]))
        grids = "".join(panel.to_html() for row in rows for panel in row)
        return f"<div><ul>{said}</ul>{svg.patterns()}{svg.legend()}{grids}</div>"

    def to_parquet(self, path: str | Path) -> None:
        """Write `to_frame` as a Parquet file; axes that are not numbers as text.

        Raises:
            InputError: pyarrow is not installed, or the file cannot be written.
        """
        arguments.check_path("a Parquet file", path)
        frame = self.to_frame()
        for name in [n for n, scale in self.scales.items() if scale == "category"]:
            frame[name] = [None if value is None else format_value(value) for value in frame[name]]
        write_parquet(frame, path, " (or use to_frame().to_csv)")
