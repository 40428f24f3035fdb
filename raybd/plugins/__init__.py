"""Name + settings <-> object, for every table of methods: raybd's own by their names, others by module:Class or by the
name that an installed package gives them (`raybd/plugins/own.py`)."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from raybd.errors import InputError
from raybd.field_types import allowed_values, fits, hints_of, is_finite
from raybd.plugins.names import unknown
from raybd.plugins.own import Table, find, name_of, split

__all__ = [
    "Table",
    "assignments",
    "build",
    "describe",
    "find",
    "name_of",
    "parse",
    "settings_of",
    "spec",
    "split",
    "unknown",
]
T = TypeVar("T")
_ALWAYS = object()  # equal to no value
# What stands between two commas: words, quoted text, lists of both
PIECE = re.compile(r"""(?:[^,"[]|"(?:\\.|[^"\\])*"|\[(?:[^]"]|"(?:\\.|[^"\\])*")*\]|["[])+""")


def build(kind: str, table: Mapping[str, type[T]], spec: Mapping[str, Any]) -> T:
    """The method `spec["name"]` of `table` with the other entries as its settings.

    Raises:
        InputError: the name or a setting is unknown, or the method refuses a setting's value.
    """
    settings = {key: _hashable(value) for key, value in spec.items() if key != "name"}
    cls: Any = find(kind, table, spec["name"])
    if bad := unknown(f"setting of {kind} {spec['name']}", settings, _fields(cls)):
        raise InputError(bad)
    hints = hints_of(cls)
    if bad := [key for key, value in settings.items() if not (fits(value, hints[key]) and is_finite(value))]:
        said = [f"{key} cannot be {settings[key]!r} (allowed: {allowed_values(hints[key])})" for key in bad]
        raise InputError([f"{kind} {spec['name']}: {text}" for text in said])
    made: T = cls(**settings)
    return made


def parse(kind: str, table: Mapping[str, type[T]], text: str, **common: Any) -> T:
    """The method that a person writes as NAME, NAME:PRESET, NAME:SETTING=VALUE or NAME:PRESET,SETTING=VALUE.

    NAME is one of `table`, or of an installed package, or MODULE:CLASS (`split`).
    Values are JSON, or words as they stand; `common` settings hold where the text says nothing else.

    Raises:
        InputError: the name, the preset or a setting is unknown, or a value is of no use.
    """
    name, rest = split(kind, table, text)
    presets: Mapping[str, Mapping[str, Any]] = getattr(find(kind, table, name), "presets", {})
    pieces = PIECE.findall(rest)
    chosen = [piece for piece in pieces if "=" not in piece]
    if found := unknown(f"preset of {name}", chosen, presets):
        raise InputError([f"{found[0]}; settings are written NAME=VALUE, lists [A,B]"])
    if (chosen and pieces[0] not in chosen) or len(chosen) > 1:
        raise InputError(f"{kind} {text}: one preset at most, before all settings")
    preset = dict(presets[chosen[0]]) if chosen else {}
    given = assignments(f"{kind} {text}", (piece for piece in pieces if "=" in piece))
    if "name" in given:
        raise InputError(f"{kind} {text}: the name stands before the settings")
    return build(kind, table, {"name": name} | common | preset | {key: _value(value) for key, value in given.items()})


def assignments(what: str, texts: Iterable[str], form: str = "NAME=VALUE") -> dict[str, str]:
    """The values of texts NAME=VALUE by name; `what` is what they are settings of, in messages.

    Raises:
        InputError: a text is not of that form, or a name has two values.
    """
    parts = [text.partition("=") for text in texts]
    bad = ["".join(part) for part in parts if not (part[0].strip() and part[1])]
    problems = [f"{what}: a setting is {form}, not {', '.join(bad)}"] * bool(bad)
    given = Counter(name.strip() for name, _, _ in parts)
    problems += [f"{what}: {name} is given {count} times" for name, count in given.items() if name and count > 1]
    if problems:
        raise InputError(problems)
    return {name.strip(): value for name, _, value in parts}


def describe(table: Mapping[str, type[T]], plugin: T, common: Iterable[str] = ()) -> str:
    """`plugin` as `parse` reads it: its name, and its settings that are not the defaults, but for those of `common`."""
    plain = spec(table, plugin)
    usual = spec(table, type(plugin)())
    changed = {k: v for k, v in plain.items() if v != usual.get(k, _ALWAYS) and k not in common}
    said = [f"{k}={json.dumps(v, separators=(',', ':'))}" for k, v in changed.items()]
    return str(plain["name"]) + (":" + ",".join(said) if said else "")


def spec(table: Mapping[str, type[T]], plugin: T) -> dict[str, Any]:
    """`plugin` as its name in `table` and its settings, defaults written out; `build` takes it back."""
    return {"name": name_of(table, plugin)} | settings_of(plugin)


def settings_of(config: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, those left out that were added after the first release and are at their
    default: `field(default=1, metadata={"since": "0.2"})`, so that configs that do not use them keep their keys."""
    cls: Any = type(config)
    found = {key: getattr(config, key) for key in _fields(cls)}
    return {key: value for key, value in found.items() if value != _added(cls).get(key, _ALWAYS)}


@cache  # a sweep asks ten thousands of times
def _fields(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


@cache
def _added(cls: Any) -> dict[str, Any]:
    """The default of every field that was added after the first release."""
    return {f.name: f.default for f in dataclasses.fields(cls) if "since" in f.metadata}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a word; a number of thousands of digits; lists in lists in lists
        return _words(text)


def _words(text: str) -> Any:
    """The list that [A,B] is, of words or numbers; another text as it stands."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    parts = PIECE.findall(text[1:-1])
    return text if any("[" in part for part in parts) else [_value(part.strip()) for part in parts]


def _hashable(value: Any) -> Any:
    """JSON has no tuples: lists come back as the tuples that frozen dataclasses hold."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
