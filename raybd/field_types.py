"""Types of the fields of configs: whether a value is of one, and how it is said to people. Imports nothing of raybd."""

import math
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class NamesClass:
    """Mark of a setting that is a class of the data: written as its number or its name."""


# A class of the data. Its name is a value too, until the data are known: `raybd.data.class_names.with_numbers`.
ClassLabel = Annotated[int, NamesClass()]
_NAMED = {ClassLabel: int | str, tuple[ClassLabel, ...]: tuple[int | str, ...]}


@cache  # a sweep asks ten thousands of times
def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of a dataclass without bounds, those of classes of the data with texts among the values."""
    marked = get_type_hints(cls, include_extras=True)
    return {name: _NAMED.get(marked[name], hint) for name, hint in get_type_hints(cls).items()}


@cache
def class_fields(cls: Any) -> list[str]:
    """The names of the fields of a dataclass that are classes of the data."""
    return [name for name, hint in get_type_hints(cls, include_extras=True).items() if hint in _NAMED]


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that an annotation names, for a Literal of the type of its words; True where that
    is no question of types."""
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, type(get_args(hint)[0]))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        each = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(fits, value, each))
    if not isinstance(hint, type):
        return True
    return isinstance(value, int | float if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def is_finite(value: Any) -> bool:
    """Whether a number, or each of a tuple, is neither nan nor infinite; True of all else."""
    if isinstance(value, tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def allowed_values(hint: Any) -> str:
    """What a person may write for an annotation."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(allowed_values(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list as [...], each {allowed_values(get_args(hint)[0])}"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}.get(hint, str(hint))
