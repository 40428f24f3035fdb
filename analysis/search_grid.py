"""The grid of an active search: the candidate cells, their groups, coordinates and costs."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from analysis.values import Value, axis_scale, is_number, to_python
from raybd.errors import InputError

Floats = NDArray[np.float64]
Group = tuple[Hashable, ...]
PLUGINS = ("attack.", "defence.", "metrics.")  # their settings part groups, whatever they are
COST_FACTORS = ("train.epochs", "model.width")  # what a training's time grows with


@dataclass(frozen=True)
class Candidate:
    """A cell that could be measured."""

    group: Group  # the values of what is no numeric axis: attack, defence, ...
    values: tuple[float, ...]  # on each numeric axis


class Grid:
    """The cells that could be measured.

    Args:
        settings: the parameters of each by their full names, as trials log them.

    Attributes:
        axes: the numbers that vary, by full name, with their values in order.
        scales: log or linear, of each axis.
        group_names: what else varies, by full name: the values of a group.
        costs: of each candidate, in the order given: epochs times width.

    Raises:
        InputError: no number varies.
    """

    def __init__(self, settings: Sequence[Mapping[str, Value]]) -> None:
        names = sorted({n for one in settings for n in one if n != "seed"})
        values = {n: {to_python(one.get(n)) for one in settings} for n in names}
        varying = [n for n in names if len(values[n]) > 1]
        numbers = [n for n in varying if all(map(is_number, values[n])) and not n.startswith(PLUGINS)]
        if not numbers:
            raise InputError("no axis of numbers: a boundary needs one with two values (poison rate, width, ...)")
        self.axes = {n: sorted(float(str(v)) for v in values[n]) for n in numbers}
        self.scales = {n: "log" if n == "poison_rate" else axis_scale(self.axes[n]) for n in numbers}
        self.group_names = [n for n in varying if n not in numbers and not _implied_by_plugin(n, settings)]
        self.costs = {self.candidate(one): _cost(one) for one in settings}

    @property
    def groups(self) -> list[Group]:
        """Each group once."""
        return list(dict.fromkeys(candidate.group for candidate in self.costs))

    def candidate(self, setting: Mapping[str, Value]) -> Candidate:
        """The candidate of a setting."""
        values = tuple(float(str(setting[n])) for n in self.axes)
        return Candidate(tuple(to_python(setting.get(n)) for n in self.group_names), values)

    def settings(self) -> list[dict[str, Value]]:
        """Of every candidate what tells it from the others; a grid of these has the same candidates."""
        return [
            dict(zip(self.group_names, c.group, strict=True)) | dict(zip(self.axes, c.values, strict=True))
            for c in self.costs
        ]

    def coordinates(self, values: Iterable[Sequence[float]]) -> Floats:
        """(m, d) values of candidates on the axes' scales."""
        points = np.array(list(values), dtype=float).reshape(-1, len(self.axes))
        log = np.array([scale == "log" for scale in self.scales.values()])
        points[:, log] = np.log10(points[:, log])
        return points

    def steps(self, candidates: Sequence[Candidate]) -> NDArray[np.int_]:
        """(m, d) the positions of candidates on the axes."""
        positions = [{value: i for i, value in enumerate(values)} for values in self.axes.values()]
        places = [[at[v] for at, v in zip(positions, one.values, strict=True)] for one in candidates]
        return np.array(places, dtype=int).reshape(-1, len(self.axes))

    def initial_design(self) -> list[Candidate]:
        """What to measure before anything is known: in each group the corners and the middle."""
        corners = list(product(*[(values[0], values[-1]) for values in self.axes.values()]))
        middle = tuple(values[len(values) // 2] for values in self.axes.values())
        wanted = [Candidate(group, values) for group in self.groups for values in dict.fromkeys([*corners, middle])]
        return [candidate for candidate in wanted if candidate in self.costs]


def _cost(setting: Mapping[str, Value]) -> float:
    return float(np.prod([float(str(setting.get(n, 1))) for n in COST_FACTORS]))


def _implied_by_plugin(name: str, settings: Sequence[Mapping[str, Value]]) -> bool:
    """Whether a setting of a plugin is the same wherever the plugin is: its name then says it."""
    owner = f"{name.partition('.')[0]}.name"
    values: dict[Value, set[Value]] = {}
    for one in settings:
        values.setdefault(to_python(one.get(owner)), set()).add(to_python(one.get(name)))
    return name != owner and all(len(known) == 1 for known in values.values())
