"""The defended-region map: at which attacks, poison rates and settings the backdoor does not take hold."""

from collections.abc import Sequence

import pandas as pd

from analysis import records
from analysis.axes import Names
from analysis.cells import Rule, build, reference_accuracy
from analysis.index import CellIndex
from analysis.slices import MapSlice
from analysis.values import Value, distinct
from analysis.verdict import Verdict, pooled
from raybd.errors import InputError


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
            full name.
        max_accuracy_loss: allowed loss of clean accuracy, in [0, 1].
        max_attack_success: allowed attack success, in [0, 1].

    Attributes:
        axes: the parameters that vary, by the names they go by, with their measured values in order.
        reference: accuracy of the best clean twins of each data set.
        cells: every setting that has a trial.
        rule: the thresholds.
    """

    def __init__(
        self, frame: pd.DataFrame, *, max_accuracy_loss: float = 0.02, max_attack_success: float = 0.1
    ) -> None:
        self.rule = Rule(max_accuracy_loss=max_accuracy_loss, max_attack_success=max_attack_success)
        trials = records.read(frame)
        self.names = Names(trials)
        self.reference = reference_accuracy(trials)
        shown = {n: self.names.short[n] for n in self.names.shown}
        self.cells = tuple(build(trials, shown, self.reference, self.rule))
        self.axes = {self.names.short[name]: trials.values[name] for name in self.names.varying}
        self._values = trials.values
        self._index = CellIndex(self.cells, trials.values, self.names.short)

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, max_accuracy_loss: float = 0.02, max_attack_success: float = 0.1
    ) -> "DefendedRegionMap":
        """The map of a table of trials."""
        return cls(frame, max_accuracy_loss=max_accuracy_loss, max_attack_success=max_attack_success)

    @classmethod
    def from_mlflow(
        cls,
        experiment: str | Sequence[str],
        tracking_uri: str | None = None,
        *,
        max_accuracy_loss: float = 0.02,
        max_attack_success: float = 0.1,
    ) -> "DefendedRegionMap":
        """The map of the trials that one sweep or several logged."""
        frame = records.load(experiment, tracking_uri)
        return cls(frame, max_accuracy_loss=max_accuracy_loss, max_attack_success=max_attack_success)

    def measured(self, parameter: str) -> list[Value]:
        """The measured values of any parameter, by its full name, in order; none if there is no such one."""
        return self._values.get(parameter, [])

    def query(self, **setting: Value) -> Verdict:
        """The verdict at a setting; over every value of an axis that is left out, the conservative one.

        Raises:
            InputError: there is no such axis.
        """
        asked = self.names.settings(setting)
        named = {self.names.short[name]: value for name, value in asked.items()}
        cells = self._index.find(asked)
        if not cells:
            return Verdict(setting=named, status="unmeasured", reason=self._index.why_none(asked))
        if len(cells) == 1:
            return cells[0].verdict
        choices = {n: len({cell.setting[n] for cell in cells}) for n in self.names.varying if n not in asked}
        free = {self.names.short[name]: number for name, number in choices.items() if number > 1}
        return pooled([cell.verdict for cell in cells], named, free)

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
            verdicts=[[self.query(**{x: u, y: v}, **fixed) for u in xs] for v in ys],
        )

    def robust(self, over: str = "attack") -> pd.DataFrame:
        """The settings of the other axes, with poison, and how many values of the axis `over` they hold off.

        `robust` is true where every value of `over` that was measured with poison was measured here and is
        defended. Axes that belong to `over` (the settings of an attack) are pooled: all must be defended.
        """
        (name,) = self.names.full([over])
        others = [n for n in self.names.varying if n != name and n not in self.names.settings_of(name)]
        poisoned = [c for c in self.cells if c.setting["poison_rate"] != 0 and c.setting["attack.name"] != "none"]
        everything = distinct(cell.setting[name] for cell in poisoned)
        settings = {tuple(cell.setting[n] for n in others): None for cell in poisoned}
        rows = [self._held_off(dict(zip(others, at, strict=True)), name, everything) for at in settings]
        columns = [self.names.short[n] for n in others]
        columns += ["defended against", "measured", "robust", "worst attack success"]
        return pd.DataFrame(rows, columns=columns).sort_values("robust", ascending=False, kind="stable")

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: the axes, the verdict's numbers, and how many trials failed."""
        shorts = {name: self.names.short[name] for name in self.names.varying}
        return pd.DataFrame(
            {short: cell.setting[name] for name, short in shorts.items()}
            | cell.verdict.row()
            | {"failures": cell.failures}
            for cell in self.cells
        )

    def _held_off(self, setting: dict[str, Value], over: str, everything: Sequence[Value]) -> dict[str, object]:
        verdicts = [self.query(**{**setting, over: value}) for value in everything]
        measured = [v for v in verdicts if v.status != "unmeasured"]
        defended = sum(v.status == "defended" for v in verdicts)
        return {self.names.short[name]: value for name, value in setting.items()} | {
            "defended against": defended,
            "measured": len(measured),
            "robust": defended == len(everything),
            "worst attack success": max((v.attack_success.value for v in measured), default=float("nan")),
        }
