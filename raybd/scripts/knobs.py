"""Knobs of a user's training: NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE,...; and changes of them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybd.errors import InputError
from raybd.scripts.config import RESERVED, KnobValue

RANGE = re.compile(r"(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?P<log>:log)?")


@dataclass(frozen=True)
class Knob:
    """A setting of a user's training: its default, and what it may be instead.

    A place is a number in [0, 1]: of a range on its scale, of a list of numbers by their order. Words have no order.
    """

    name: str
    values: tuple[KnobValue, ...]  # of a list in order; of a range its two ends
    default: KnobValue
    ranged: bool = False
    log: bool = False

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers."""
        return not any(isinstance(value, str) for value in self.values)

    def place(self, value: KnobValue) -> float:
        """The place of one of its values."""
        if self.ranged:
            low, high, at = (self._scaled(float(one)) for one in (*self.values, value))
            return (at - low) / (high - low)
        return self.values.index(value) / (len(self.values) - 1)

    @property
    def far_places(self) -> list[float]:
        """The places farthest from the default: both ends, or every other word."""
        ends = [0.0, 1.0] if self.ordered else [k / (len(self.values) - 1) for k in range(len(self.values))]
        return [place for place in ends if self.value(place) != self.default]

    def value(self, place: float) -> KnobValue:
        """The value at a place, of a list the nearest."""
        if not self.ranged:
            return self.values[round(place * (len(self.values) - 1))]
        low, high = (self._scaled(float(value)) for value in self.values)
        found = low + place * (high - low)
        found = math.exp(found) if self.log else found
        if all(isinstance(value, int) for value in self.values):
            return round(found)
        return float(f"{found:.3g}")

    def between(self, place: float, share: float) -> float:
        """The place at a `share` of the way from the default to `place`; words have only its end."""
        start = self.place(self.default)
        return start + share * (place - start) if self.ordered else place

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def __str__(self) -> str:
        if self.ranged:
            return f"{self.name}={_text(self.values[0])}..{_text(self.values[1])}{':log' * self.log}"
        return f"{self.name}={','.join(map(_text, self.values))}"


def parse_knobs(texts: Sequence[str], defaults: Sequence[str]) -> list[Knob]:
    """The knobs that `texts` declare, with the defaults NAME=VALUE; without one, the first value or the lower end.

    Raises:
        InputError: with everything that is wrong with them.
    """
    problems: list[str] = []
    given = _assigned("--defaults", defaults, problems)
    declared = _assigned("--knob", texts, problems)
    known = declared.keys()
    if more := [name for name in given if name not in known]:
        problems.append(f"--defaults of no knob: {', '.join(more)} (knobs: {', '.join(known) or 'none'})")
    found = []
    for name, text in declared.items():
        try:
            found.append(_knob(name, text, given.get(name)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


def settings(knobs: Sequence[Knob], places: Mapping[str, float]) -> tuple[tuple[str, KnobValue], ...]:
    """The values of all knobs, of those in `places` at their places, of the others the default."""
    return tuple((knob.name, knob.value(places[knob.name]) if knob.name in places else knob.default) for knob in knobs)


def _assigned(flag: str, texts: Sequence[str], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and value and name.isidentifier()):
            problems.append(f"{flag} {text}: write NAME={'VALUE' if flag == '--defaults' else 'LOW..HIGH or A,B,C'}")
        elif name in RESERVED:
            problems.append(f"{flag} {text}: {name} is raybd's own name (as are {', '.join(RESERVED)})")
        elif name in found:
            problems.append(f"{flag} {name} is given twice")
        else:
            found[name] = value
    return found


def _knob(name: str, text: str, default: str | None) -> Knob:
    if match := RANGE.fullmatch(text):
        return _ranged(name, match, default)
    values = tuple(_value(part.strip()) for part in text.split(","))
    if len(set(values)) != len(values) or len(values) < 2:
        raise InputError(f"--knob {name}={text}: at least two different values are needed, or LOW..HIGH")
    chosen = values[0] if default is None else _value(default)
    if chosen not in values:
        raise InputError(f"--defaults {name}={default} is none of the values {text}")
    if not any(isinstance(value, str) for value in values):
        values = tuple(sorted(values, key=float))
    return Knob(name, values, chosen)


def _ranged(name: str, match: "re.Match[str]", default: str | None) -> Knob:
    low, high = _value(match["low"]), _value(match["high"])
    chosen, log = low if default is None else _value(default), bool(match["log"])
    if isinstance(low, str) or isinstance(high, str) or isinstance(chosen, str):
        raise InputError(f"--knob {name}={match.string}: a range is of numbers, and so is its default")
    if not (low < high and math.isfinite(low) and math.isfinite(high)) or (log and low <= 0):
        raise InputError(f"--knob {name}={match.string}: LOW must be below HIGH{' and above 0' * log}")
    if not low <= chosen <= high:
        raise InputError(f"--defaults {name}={default} is outside {match.string}")
    return Knob(name, (low, high), chosen, ranged=True, log=log)


def _value(text: str) -> KnobValue:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: KnobValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
