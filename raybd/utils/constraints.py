"""Ranges and words of the fields of configs: `Annotated[float, Interval(ge=0, lt=1)]` and `Literal["a", "b"]`, checked
by `violations`.

The bounds are those of `annotated_types` (Ge, Gt, Le, Lt, Interval), as pydantic and others read them.
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen

from raybd.field_types import allowed_values, fits, hints_of, is_finite

Bound = Ge | Gt | Le | Lt
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Interval(gt=0, lt=math.inf)]  # finite and above 0
NonNegative = Annotated[float, Interval(ge=0, lt=math.inf)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
InnerShare = Annotated[float, Interval(gt=0, lt=1)]

COMPARE: dict[type[Bound], tuple[Callable[[Any, Any], bool], str]] = {
    Ge: (operator.ge, "at least"),
    Gt: (operator.gt, "above"),
    Le: (operator.le, "at most"),
    Lt: (operator.lt, "below"),
}


def violations(config: Any, prefix: str = "", spell: Callable[[str], str] = str) -> list[str]:
    """Every field of the dataclass `config` that is of another type, out of its range, no finite number, or none of its
    Literal's words: its name after `prefix`, what is allowed, its value.

    Fields that are None are left out; of a tuple each value is checked. No bound lets an infinity through. `spell`
    turns the name of a field into the one that a user knows, as `flag` does.
    """
    cls: Any = type(config)
    return [
        f"{prefix}{spell(name)} must be {problem}"
        for name, rule in _rules(cls).items()
        for problem in rule.problems(getattr(config, name))
    ]


def mistyped(config: Any, prefix: str = "") -> list[str]:
    """The lines of `violations` about fields of another type, of which nothing else can be asked."""
    cls: Any = type(config)
    found = {name: rule.type_problem(getattr(config, name)) for name, rule in _rules(cls).items()}
    return [f"{prefix}{name} must be {problem}" for name, problem in found.items() if problem]


@dataclass(frozen=True)
class _Rule:
    """What a field may be."""

    hint: Any  # without bounds
    bounds: tuple[Bound, ...]
    words: tuple[str, ...]

    def problems(self, value: Any) -> list[str]:
        """What is allowed and what `value` is, for each part of it that is not."""
        if mistyped := self.type_problem(value):
            return [mistyped]
        return [text for one in _values(value) if (text := self._problem(one))]

    def type_problem(self, value: Any) -> str:
        """What is allowed and what `value` is, if it is of another type."""
        return "" if fits(value, self.hint) else f"{allowed_values(self.hint)}, got {value!r}"

    def _problem(self, value: Any) -> str:
        if self.bounds and not (is_finite(value) and all(_holds(value, bound) for bound in self.bounds)):
            allowed = describe(self.bounds)
            return f"{allowed}{_finite_too(value, allowed)}, got {_shown(value)}"
        if not is_finite(value):
            return f"a finite number, got {value}"
        if self.words and isinstance(value, str) and value not in self.words:
            return f"one of {', '.join(self.words)}, got {value!r}"
        return ""


def _holds(value: Any, bound: Bound) -> bool:
    return COMPARE[type(bound)][0](value, limit(bound))


def empty(config: Any, spell: Callable[[str], str] = str) -> list[str]:
    """Every field of the dataclass `config` annotated with `MinLen` that has too few values."""
    return [
        f"{spell(name)} needs at least {'one value' if least == 1 else f'{least} values'}"
        for name, least in _least_lengths(type(config)).items()
        if len(getattr(config, name)) < least
    ]


def flag(name: str) -> str:
    """The flag of the command line that sets the field `name`: --weight-decays for weight_decays."""
    return f"--{name.replace('_', '-')}"


def _least_lengths(cls: Any) -> dict[str, int]:
    hints = get_type_hints(cls, include_extras=True)
    marks = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in fields(cls)}
    return {name: mark.min_length for name, found in marks.items() for mark in found if isinstance(mark, MinLen)}


def _values(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache  # a sweep asks ten thousands of times
def _rules(cls: Any) -> dict[str, _Rule]:
    """The rule of every field."""
    plain, marked = hints_of(cls), get_type_hints(cls, include_extras=True)
    return {
        f.name: _Rule(plain[f.name], tuple(bounds_in(marked[f.name])), tuple(_words(plain[f.name])))
        for f in fields(cls)
    }


def _finite_too(value: Any, allowed: str) -> str:
    """What `allowed` leaves unsaid of an infinity that keeps to the bounds."""
    unsaid = value == math.inf and allowed.startswith(("at least", "above")) and "finite" not in allowed
    return " and finite" if unsaid else ""


def _words(hint: Any) -> Iterator[str]:
    """The words of the Literals in an annotation."""
    for inner in get_args(hint):
        if get_origin(hint) is not Literal:
            yield from _words(inner)
        elif isinstance(inner, str):
            yield inner


def bounds_in(hint: Any) -> Iterator[Bound]:
    """The bounds in an annotation, wherever they stand in it: `Annotated[int, Ge(1)] | None`, `tuple[Share, ...]`."""
    if get_origin(hint) is Annotated:
        yield from bounds_in(get_args(hint)[0])
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Interval):
                yield from mark  # type: ignore[misc]
            elif isinstance(mark, Bound):
                yield mark
    else:
        for inner in get_args(hint):
            yield from bounds_in(inner)


def limit(bound: Bound) -> Any:
    """The number in `bound`."""
    return getattr(bound, type(bound).__name__.lower())


def describe(bounds: tuple[Bound, ...]) -> str:
    """Bounds in words: "in [0, 1)", "above 0 and finite", "at least 1"."""
    low = next((b for b in bounds if isinstance(b, Ge | Gt)), None)
    high = next((b for b in bounds if isinstance(b, Le | Lt)), None)
    if low is not None and high is not None and limit(high) != math.inf:
        left, right = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        return f"in {left}{limit(low):g}, {limit(high):g}{right}"
    bound = low or high
    assert bound is not None
    return f"{COMPARE[type(bound)][1]} {limit(bound):g}{' and finite' if low and high else ''}"
