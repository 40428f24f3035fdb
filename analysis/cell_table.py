"""The table of a map's cells with the names and scales of their parameters, which every question about it reads."""

from collections.abc import Mapping, Sequence

from analysis.accuracy import best_twins
from analysis.cell_index import CellIndex
from analysis.cells import Cell, build_cells
from analysis.decision import DecisionRule, decide, lend
from analysis.interpolation import interpolate_verdict
from analysis.parameter_names import ParameterNames
from analysis.records import Trials
from analysis.samples import sample
from analysis.surrogate import NoSurrogateError, Surrogate, failed_cells, fit_surrogate, select_cells
from analysis.values import Value, axis_scale
from analysis.verdict import Verdict, pooled
from raybd.errors import InputError

SOURCE = "source"  # the axis whose values are never mixed


class CellTable:
    """Every setting that has a trial; settings are given and found by full names of parameters.

    Attributes:
        cells: one a setting.
        trials: behind them.
        rule: the thresholds.
        reference: accuracy of the best clean twins of each data set.
        names: full and short names of the parameters, and which of them vary.
        scales: of each axis by its full name: log, linear or category.
    """

    def __init__(self, trials: Trials, rule: DecisionRule) -> None:
        self.trials, self.rule, found = trials, rule, sample(trials)
        self.reference = best_twins(found, lend(found), rule.accuracy_logits)
        self.names = ParameterNames(trials)
        shown = {name: self.names.short[name] for name in self.names.shown}
        self.cells = tuple(build_cells(found, decide(found, rule), rule, shown))
        self.scales = {name: _scale(name, trials.values[name]) for name in self.names.varying}
        self._values = trials.values
        self._index = CellIndex(self.cells, trials.values, self.names.short)
        self._surrogates: dict[tuple[int, ...], Surrogate] = {}

    @property
    def notes(self) -> list[str]:
        """What holds for the verdicts of the whole map: the false discovery rate, if one is held."""
        rate = self.rule.false_discovery_rate
        poisoned = sum(cell.poisoned and bool(cell.seeds) for cell in self.cells)
        over = f"over {poisoned} cells with poison (Benjamini-Hochberg)"
        return [] if rate is None else [f"cells called defended: false discovery rate at most {100 * rate:g}% {over}"]

    @property
    def axes(self) -> dict[str, list[Value]]:
        """The measured values of each axis, in order, by short names."""
        return {self.names.short[name]: self._values[name] for name in self.names.varying}

    def measured(self, parameter: str) -> list[Value]:
        """The measured values of a parameter, in order; none if there is no such parameter."""
        return self._values.get(parameter, [])

    def find(self, setting: Mapping[str, Value]) -> list[Cell]:
        """The cells at the values of `setting`."""
        return self._index.find(setting)

    def find_poisoned(self, setting: Mapping[str, Value]) -> list[Cell]:
        """The cells at the values of `setting` that an attack was made on."""
        return [cell for cell in self.find(setting) if cell.poisoned]

    def require(self, setting: Mapping[str, Value]) -> None:
        """Raise an InputError that says what was measured, if nothing was at the values of `setting`."""
        if not self.find(setting):
            raise InputError(f"nothing was measured there: {self._index.explain_missing(setting)}")

    def answer(self, setting: Mapping[str, Value], interpolate: bool = False) -> Verdict:
        """The verdict at a setting; over every value of an axis that is left out, the conservative one."""
        cells = self.find(setting)
        if not cells:
            return self._interpolate(setting) if interpolate else self._unmeasured(setting)
        self.check_one_source(cells)
        return self.pooled(cells, setting)

    def pooled(self, cells: Sequence[Cell], setting: Mapping[str, Value]) -> Verdict:
        """The conservative verdict on several cells at `setting`; of a single one its own."""
        if len(cells) == 1:
            return cells[0].verdict
        counts = {self.names.short[n]: len({cell.setting[n] for cell in cells}) for n in self.names.varying}
        free = {name: count for name, count in counts.items() if count > 1}
        return pooled([cell.verdict for cell in cells], self.names.short_setting(setting), free)

    def surrogate(self, setting: Mapping[str, Value]) -> Surrogate:
        """The surrogate through the cells that differ from `setting` in numeric axes only.

        Raises:
            NoSurrogateError: there is none, and why.
        """
        beside = self._beside(setting)
        cells, axes = select_cells(beside, setting, self.scales, self.names.short)
        key = tuple(map(id, cells))
        if key not in self._surrogates:
            self._surrogates[key] = fit_surrogate(cells, axes, self.rule, failed_cells(beside, cells, axes))
        return self._surrogates[key]

    def check_one_source(self, cells: Sequence[Cell]) -> None:
        """Raise an InputError if `cells` come from several sources."""
        if SOURCE in self._values and len(sources := {cell.setting[SOURCE] for cell in cells}) > 1:
            listed = ", ".join(sorted(map(str, sources)))
            raise InputError(f"several sources answer, which are never mixed: say source= one of {listed}")

    def _unmeasured(self, setting: Mapping[str, Value], why: str = "") -> Verdict:
        reasons = [self._index.explain_missing(setting), why]
        reason = "; ".join(filter(None, reasons))
        return Verdict(setting=self.names.short_setting(setting), status="unmeasured", reason=reason)

    def _interpolate(self, setting: Mapping[str, Value]) -> Verdict:
        try:
            surrogate = self.surrogate(setting)
        except NoSurrogateError as error:
            return self._unmeasured(setting, str(error))
        if not surrogate.contains(setting):
            return self._unmeasured(setting, "outside the hull of what was measured, and never extrapolated")
        return interpolate_verdict(surrogate, setting, self.names.short_setting(setting))

    def _beside(self, setting: Mapping[str, Value]) -> list[Cell]:
        """The cells that match `setting` in all but its numbers."""
        return self.find({n: v for n, v in setting.items() if self.scales.get(n, "category") == "category"})


def _scale(name: str, values: Sequence[Value]) -> str:
    scale = axis_scale(values)
    return "log" if name == "poison_rate" and scale == "linear" else scale
