"""Name + settings <-> object, for every table of methods (attacks, defences, metrics)."""

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from raybd.errors import InputError

T = TypeVar("T")


def unknown(kind: str, names: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """One line that names every one of `names` that is not `allowed`, with the allowed; none if all are known."""
    allowed = list(allowed)
    bad = [name for name in dict.fromkeys(names) if name not in allowed]
    if not bad:
        return []
    near = dict.fromkeys(m for name in bad for m in get_close_matches(name, allowed, n=1))
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return [f"unknown {kind}: {', '.join(bad)} (known: {', '.join(sorted(allowed))}{hint})"]


def build(kind: str, table: Mapping[str, type[T]], spec: Mapping[str, Any]) -> T:
    """The method `spec["name"]` of `table` with the other entries as its settings.

    Raises:
        InputError: the name or a setting is unknown, or the method refuses a setting's value.
    """
    settings = {key: _hashable(value) for key, value in spec.items() if key != "name"}
    if bad := unknown(kind, [spec["name"]], table):
        raise InputError(bad)
    cls = table[spec["name"]]
    if bad := unknown(f"setting of {kind} {spec['name']}", settings, _fields(cls)):
        raise InputError(bad)
    if bad := [key for key, value in settings.items() if not _fits(value, get_type_hints(cls)[key])]:
        raise InputError([f"{kind} {spec['name']}: {key} cannot be {settings[key]!r}" for key in bad])
    return cls(**settings)


def spec(table: Mapping[str, type[T]], plugin: T) -> dict[str, Any]:
    """`plugin` as its name in `table` and every setting, defaults written out; `build` takes it back."""
    name = next(name for name, cls in table.items() if cls is type(plugin))
    return {"name": name} | {key: getattr(plugin, key) for key in _fields(type(plugin))}


def _fields(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that an annotation names; a word that is not allowed is the method's to refuse."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, type(get_args(hint)[0]))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return isinstance(value, tuple) and all(_fits(v, inner[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _hashable(value: Any) -> Any:
    """JSON has no tuples: lists come back as the tuples that frozen dataclasses hold."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list) else value
