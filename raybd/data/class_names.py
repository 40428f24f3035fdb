"""Classes of a data set by their names: `bird` in the place of 2."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from raybd.errors import InputError
from raybd.field_types import class_fields
from raybd.plugins import unknown

T = TypeVar("T")
NEAREST = 10  # names that a mistyped one is told, of more
Label = int | str  # the number of a class, or its name


def numbers_of(labels: Iterable[Label], classes: Sequence[str]) -> list[int]:
    """The number of each of the classes `labels`; a number stays as it is, also one that no class has.

    Raises:
        InputError: with every name that no class has.
    """
    found = [one if one in classes else _unquoted(one) for one in labels]
    if bad := unknown("class", [one for one in found if isinstance(one, str)], classes, NEAREST):
        raise InputError(bad)
    return [classes.index(one) if isinstance(one, str) else one for one in found]


def number_of(label: Label, classes: Sequence[str]) -> int:
    """`numbers_of` one class."""
    return numbers_of([label], classes)[0]


def with_numbers(config: T, classes: Sequence[str]) -> T:
    """The dataclass `config` with numbers in place of names, in its settings that are classes (`ClassLabel`).

    Raises:
        InputError: with every name that no class has.
    """
    cls: Any = type(config)
    changed, problems = {}, []
    for name in class_fields(cls):
        value = getattr(config, name)
        try:
            changed[name] = _numbered(value, classes)
        except InputError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise InputError(problems)
    if all(getattr(config, name) == value for name, value in changed.items()):
        return config
    made: T = replace(config, **changed)  # type: ignore[type-var]
    return made


def names_left(config: Any) -> list[str]:
    """The names of classes among the settings of `config`, whose numbers are not known yet."""
    cls: Any = type(config)
    values = [getattr(config, name) for name in class_fields(cls)]
    return [one for value in values for one in (value if isinstance(value, tuple) else (value,)) if is_name(one)]


def is_name(label: Any) -> bool:
    """Whether `label` is a name, not a number."""
    return isinstance(label, str)


def named(number: int, classes: Sequence[str]) -> str:
    """A class for people: "2 (bird)", or its number alone where that is its name or no class has it."""
    name = classes[number] if 0 <= number < len(classes) else ""
    return f"{number} ({name})" if name not in ("", str(number)) else str(number)


def have_names(classes: Sequence[str]) -> bool:
    """Whether the names of the classes say more than their numbers."""
    return list(classes) != [str(number) for number in range(len(classes))]


def _numbered(value: Any, classes: Sequence[str]) -> Any:
    if isinstance(value, tuple):
        return tuple(numbers_of(value, classes))
    return number_of(value, classes)


def _unquoted(label: Label) -> Label:
    """What stands in double quotes, as a name that looks like a number does."""
    if not (isinstance(label, str) and label.startswith('"')):
        return label
    try:
        return str(json.loads(label))
    except ValueError:
        return label
