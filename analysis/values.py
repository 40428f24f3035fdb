"""Values of parameters: parsed, compared within a tolerance, sorted, looked up and formatted."""

import ast
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np


class ClassNumber(int):
    """A class of the data, whose name people are shown: equal to its number."""

    name: str

    def __new__(cls, number: int, name: str) -> "ClassNumber":
        """The class `number`, which is called `name`."""
        made = super().__new__(cls, number)
        made.name = name
        return made

    def __reduce__(self) -> tuple[type["ClassNumber"], tuple[int, str]]:
        return type(self), (int(self), self.name)


Value = Hashable  # a number, a word, a truth value, a tuple of these, or None where a trial has no such parameter
MISSING = -1  # the position of None
LARGEST = 2**1000  # a larger whole number has no place on a scale: it is a word
TOLERANCE = 1e-9  # two numbers this near, relative to the larger, are one value


def parse(text: object) -> Value:
    """The number, truth value or tuple that a logged parameter denotes, else the word; "None" is missing."""
    if not isinstance(text, str):
        return to_python(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(value, str | bytes | dict | set | complex) else to_python(value)


def to_python(value: object) -> Value:
    """`value` without NumPy's types; NaN and NA are None, lists are tuples; what has no hash or scale is text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(to_python(v) for v in value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, int) and abs(value) > LARGEST:
        return str(value)
    return value if _hashable(value) else str(value)


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_number(value: object) -> bool:
    """Whether `value` has a place on a scale (truth values have none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def axis_scale(values: Sequence[Value]) -> Literal["log", "linear", "category"]:
    """How an axis with these `values` is laid out: numbers that span a decade or more by their logarithm."""
    numbers = [v for v in values if isinstance(v, int | float) and is_number(v)]
    if not numbers or len(numbers) < len(values):
        return "category"
    positive = [v for v in numbers if v > 0]
    spans = min(numbers) >= 0 and bool(positive) and max(positive) >= 10 * min(positive)
    return "log" if spans else "linear"


def equal_values(a: Value, b: Value) -> bool:
    """Equal, or numbers within the tolerance."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isinstance(a, bool) == isinstance(b, bool) and math.isclose(a, b, rel_tol=TOLERANCE)
    return a == b


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each value once, None left out: numbers in rising order, then the rest by their text."""
    known = {identity(v): v for v in map(to_python, values) if v is not None}
    kept: list[Value] = []
    for value in sorted(known.values(), key=_order):
        if not kept or not equal_values(kept[-1], value):
            kept.append(value)
    return kept


def identity(value: Value) -> Hashable:
    """What two equal values of one kind share: True is not 1."""
    return isinstance(value, bool), value


def index_of(value: Value, among: Sequence[Value]) -> int | None:
    """Where `value` stands `among` values, MISSING for None, and None where it is not there."""
    value = to_python(value)
    if value is None:
        return MISSING
    return next((i for i, other in enumerate(among) if equal_values(value, other)), None)


def neighbours(value: Value, among: Sequence[Value]) -> list[Value]:
    """The measured neighbours of a number, one on either side; all of `among` for what has no scale."""
    numbers = [v for v in among if isinstance(v, int | float) and is_number(v)]
    if not isinstance(value, int | float) or not is_number(value) or not numbers:
        return list(among)
    below, above = [v for v in numbers if v < value], [v for v in numbers if v > value]
    return [*below[-1:], *above[:1]]


def format_value(value: Value) -> str:
    """`value` as a person would type it."""
    if isinstance(value, ClassNumber):
        return f"{int(value)} ({value.name})"
    return f"{value:g}" if isinstance(value, int | float) and is_number(value) else str(value)


def _order(value: Value) -> tuple[int, float, str, str]:
    if isinstance(value, int | float) and is_number(value):
        return 0, value, "", ""
    return 1, 0.0, str(value), type(value).__name__
