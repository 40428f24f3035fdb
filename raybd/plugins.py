"""Name + settings <-> object, for every table of methods (attacks, defences, metrics)."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raybd.errors import InputError

T = TypeVar("T")
_ALWAYS = object()  # equal to no value
# What stands between two commas: words, quoted text, lists of both
PIECE = re.compile(r"""(?:[^,"[]|"(?:\\.|[^"\\])*"|\[(?:[^]"]|"(?:\\.|[^"\\])*")*\]|["[])+""")


def unknown(kind: str, names: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """One line that names every one of `names` that is not `allowed`, with the allowed; none if all are known."""
    allowed = list(allowed)
    bad = [name for name in dict.fromkeys(names) if name not in allowed]
    if not bad:
        return []
    near = dict.fromkeys(m for name in bad for m in get_close_matches(name, allowed, n=1))
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return [f"unknown {kind}: {', '.join(bad)} (known: {', '.join(sorted(allowed)) or 'none'}{hint})"]


def build(kind: str, table: Mapping[str, type[T]], spec: Mapping[str, Any]) -> T:
    """The method `spec["name"]` of `table` with the other entries as its settings.

    Raises:
        InputError: the name or a setting is unknown, or the method refuses a setting's value.
    """
    settings = {key: _hashable(value) for key, value in spec.items() if key != "name"}
    if bad := unknown(kind, [spec["name"]], table):
        raise InputError(bad)
    cls: Any = table[spec["name"]]
    if bad := unknown(f"setting of {kind} {spec['name']}", settings, _fields(cls)):
        raise InputError(bad)
    hints = get_type_hints(cls)
    if bad := [key for key, value in settings.items() if not _fits(value, hints[key])]:
        said = [f"{key} cannot be {settings[key]!r} (allowed: {_allowed(hints[key])})" for key in bad]
        raise InputError([f"{kind} {spec['name']}: {text}" for text in said])
    made: T = cls(**settings)
    return made


def parse(kind: str, table: Mapping[str, type[T]], text: str, **common: Any) -> T:
    """The method that a person writes as NAME, NAME:PRESET, NAME:SETTING=VALUE or NAME:PRESET,SETTING=VALUE.

    Values are JSON, or words as they stand; `common` settings hold where the text says nothing else.

    Raises:
        InputError: the name, the preset or a setting is unknown, or a value is of no use.
    """
    name, _, rest = text.partition(":")
    if found := unknown(kind, [name], table):
        raise InputError(found)
    presets: Mapping[str, Mapping[str, Any]] = getattr(table[name], "presets", {})
    settings: dict[str, Any] = {}
    for piece in PIECE.findall(rest):
        key, equals, value = piece.partition("=")
        if not equals and (found := unknown(f"preset of {name}", [key], presets)):
            raise InputError([f"{found[0]}; settings are written NAME=VALUE, lists [A,B]"])
        settings |= {key: _value(value)} if equals else dict(presets[key])
    return build(kind, table, {"name": name} | common | settings)


def describe(table: Mapping[str, type[T]], plugin: T, common: Iterable[str] = ()) -> str:
    """`plugin` as `parse` reads it: its name, and its settings that are not the defaults, but for those of `common`."""
    plain = spec(table, plugin)
    usual = spec(table, table[plain["name"]]())
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


def name_of(table: Mapping[str, type[T]], plugin: T) -> str:
    """The name of `plugin`'s class in `table`."""
    return next(name for name, cls in table.items() if cls is type(plugin))


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
    except json.JSONDecodeError:
        return text


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that an annotation names; a word that is not allowed is the method's to refuse."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, type(get_args(hint)[0]))
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        inner = get_args(hint)
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(each) and all(map(_fits, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _allowed(hint: Any) -> str:
    """What a person may write for an annotation."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_allowed(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list as [...], each {_allowed(get_args(hint)[0])}"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}.get(hint, str(hint))


def _hashable(value: Any) -> Any:
    """JSON has no tuples: lists come back as the tuples that frozen dataclasses hold."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
