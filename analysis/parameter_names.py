"""Full and short names of parameters, and which parameters are axes of the map."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

import pandas as pd

from analysis.aliases import Aliases
from analysis.class_names import by_number
from analysis.frame_checks import is_share, percent_hint
from analysis.records import RESERVED, Trials
from analysis.values import Value, to_python
from raybd.errors import InputError
from raybd.plugins import unknown

NEAREST = 10  # names that a mistyped one is told, of more


class ParameterNames:
    """Full names of parameters (train.weight_decay) and their short names (weight_decay).

    The short name is the last part, or X for a plugin's `X.name`, where no other parameter has the same.

    Attributes:
        short: every full name with its short one.
        varying: the axes of the map, by full name.
        shown: the axes, and always the attack and the poison rate.
    """

    def __init__(self, trials: Trials) -> None:
        self.short = _short_names(list(trials.values))
        self.varying = [name for name in self.short if _varies(name, trials.codes)]
        self.shown = [n for n in self.short if n in ("attack.name", "poison_rate") or n in self.varying]
        self._trials = trials
        self._full = {short: name for name, short in self.short.items()}

    @cached_property
    def aliases(self) -> Aliases:
        """The settings of a defence that have a name."""
        return Aliases(self._trials)

    @cached_property
    def threat(self) -> list[str]:
        """The parameters that are the attacker's: the attack, its settings and the poison rate."""
        return [n for n in self.short if n in ("attack.name", "poison_rate", *self.plugin_settings("attack.name"))]

    def full_names(self, names: Iterable[str]) -> list[str]:
        """The full names of parameters given by their short or full names.

        Raises:
            InputError: names that no parameter has.
        """
        names = list(names)
        if no_texts := [repr(name) for name in names if not isinstance(name, str)]:
            raise InputError(f"an axis is given by its name, got {', '.join(no_texts)}")
        if bad := unknown("axis", [n for n in names if n not in self.short], self._full, NEAREST):
            raise InputError(bad)
        return [name if name in self.short else self._full[name] for name in names]

    def full_setting(self, setting: Mapping[str, Value]) -> dict[str, Value]:
        """`setting` by full names, with what a named setting of a defence stands for; a parameter may be given once."""
        names = self.full_names(setting)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise InputError(f"given twice, by its short and its full name: {', '.join(twice)}")
        result = dict(zip(names, map(to_python, setting.values()), strict=True))
        rate = result.get("poison_rate")
        if rate is not None and not is_share(rate):
            raise InputError(f"poison_rate must be a number in [0, 1], got {rate!r}{percent_hint(rate)}")
        return self.aliases.resolve(by_number(result, self._trials.values))

    def short_setting(self, setting: Mapping[str, Value]) -> dict[str, Value]:
        """`setting`, given by full names, by short ones."""
        return {self.short[name]: value for name, value in setting.items()}

    def plugin_settings(self, name: str) -> list[str]:
        """The settings of the plugin that the parameter `name` chooses; none if it chooses no plugin."""
        prefix = name.removesuffix("name")
        return [n for n in self.short if name.endswith(".name") and n.startswith(prefix) and n != name]


def _short_names(parameters: list[str]) -> dict[str, str]:
    ends = {name: name.removesuffix(".name").rpartition(".")[2] for name in parameters}
    uses = Counter([*ends.values(), *RESERVED])
    return {name: end if uses[end] == 1 else name for name, end in ends.items()}


def _varies(name: str, codes: pd.DataFrame) -> bool:
    """Whether trials differ in it other than by the plugin it is a setting of, or the data it comes from."""
    owners = ["data"] if name == "fingerprint" else [f"{parent}.name" for parent in _parents(name)]
    plugins = [owner for owner in owners if owner in codes and owner != name]
    if plugins:
        return bool((codes.groupby(plugins)[name].nunique() > 1).any())
    return bool(codes[name].nunique() > 1)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
