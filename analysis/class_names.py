"""Names of classes on a map: a target class is shown, and asked for, by its name too."""

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.values import ClassNumber, Value
from raybd.errors import InputError
from raybd.plugins import unknown

COLUMN = "class_names"  # of a table of trials: a JSON list of the names, by number
TARGET = "attack.target"  # the parameter that is a class


def with_class_names(values: Mapping[str, list[Value]], frame: pd.DataFrame) -> dict[str, list[Value]]:
    """The values of each parameter, those of the target with their names where all data sets agree on them."""
    names = _names(frame)
    targets = [
        ClassNumber(value, names[value]) if type(value) is int and 0 <= value < len(names) else value
        for value in values.get(TARGET, [])
    ]
    return dict(values) | ({TARGET: targets} if targets else {})


def by_number(setting: Mapping[str, Value], values: Mapping[str, Sequence[Value]]) -> dict[str, Value]:
    """`setting` with the number of its target class, where it is given by its name.

    Raises:
        InputError: no class that was measured as a target has that name.
    """
    target = setting.get(TARGET)
    if not isinstance(target, str) or target in values[TARGET]:
        return dict(setting)
    known = {value.name: value for value in values[TARGET] if isinstance(value, ClassNumber)}
    if bad := unknown("class", [target], known):
        raise InputError(f"{bad[0]}; a class without a name is asked for by its number")
    return {**setting, TARGET: known[target]}


def _names(frame: pd.DataFrame) -> list[str]:
    """The names of the classes by number; none where they are not known, or data sets have others."""
    if COLUMN not in frame:
        return []
    has = frame[COLUMN].notna()
    texts = set(frame[COLUMN][has].astype(str))
    sets = frame["fingerprint"] if "fingerprint" in frame else pd.Series("", index=frame.index)
    if len(texts) != 1 or not set(sets[~has]) <= set(sets[has]):
        return []
    try:
        names = json.loads(texts.pop())
    except ValueError:  # somebody else's column
        return []
    return list(map(str, names)) if isinstance(names, list) else []
