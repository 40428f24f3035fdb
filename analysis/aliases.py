"""Names of settings: what a search chose, "vibe:winner", stands for every setting of its defence."""

from collections.abc import Mapping

from analysis.records import Trials
from analysis.values import Value
from raybd.errors import InputError
from raybd.plugins import unknown

DEFENCE = "defence.name"
Settings = Mapping[str, Value]  # parameters by their full names


class Aliases:
    """The settings that have names in a table of trials: the column `alias`, names that a trial has, a space between.

    Attributes:
        known: the settings by their names; of one name several where sweeps in one map disagree.
    """

    def __init__(self, trials: Trials) -> None:
        self.known: dict[str, list[Settings]] = {}
        self._defences = trials.values.get(DEFENCE, [])  # of which one's own are named module:Class
        names = [name for name in trials.values if name.startswith("defence.")]
        for row, texts in enumerate(trials.rows["alias"].tolist()):
            for alias in texts.split() if isinstance(texts, str) else ():
                settings = {name: trials.value(name, row) for name in names}
                if settings not in (found := self.known.setdefault(alias, [])):
                    found.append(settings)

    def resolve(self, setting: Settings) -> dict[str, Value]:
        """`setting` with the settings that the name of a defence, as "vibe:winner", stands for in its place.

        Raises:
            InputError: there is no such name, or settings of several sweeps have it.
        """
        named = setting.get(DEFENCE)
        if not isinstance(named, str) or ":" not in named or named in self._defences:
            return dict(setting)
        if bad := unknown("named setting", [named], self.known):
            raise InputError(bad)
        if len(found := self.known[named]) > 1:
            raise InputError(f"{named} is the name of {len(found)} different settings: ask one sweep at a time")
        return {**found[0], **{name: value for name, value in setting.items() if name != DEFENCE}}

    def names_of(self, setting: Settings) -> str:
        """The names that a setting has, a space between; "" where it has none."""
        return " ".join(
            alias
            for alias, (settings, *others) in self.known.items()
            if not others and all(setting.get(name) == value for name, value in settings.items())
        )
