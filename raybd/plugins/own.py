"""Methods that are not of raybd: MODULE:CLASS, or a name that an installed package gives one by an entry point."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

from raybd.errors import InputError
from raybd.plugins.names import unknown

T = TypeVar("T")
GROUPS = {  # of entry points
    "attack": "raybd.attacks",
    "defence": "raybd.defences",
    "metric": "raybd.metrics",
    "data set": "raybd.data",
    "model": "raybd.models",
    "proposer": "raybd.proposers",
}
MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
CLASS = re.compile(r"[A-Za-z_]\w*")
_modules: dict[str, None] = {}  # that hold what this process uses, in the order of their import
_names: dict[tuple[str, type], str] = {}  # (kind, class) -> the name by which it was found
_told: dict[tuple[str, str], str] = {}  # (kind, name) -> module:Class of entry points that another process has


class Table(dict[str, type[T]]):
    """raybd's own methods of one kind by their names, and the base class of all others."""

    def __init__(self, kind: str, base: type[T], methods: Mapping[str, type[T]]) -> None:
        super().__init__(methods)
        self.kind, self.base = kind, base


def split(kind: str, names: Iterable[str], text: str) -> tuple[str, str]:
    """The name and the settings in `text`: NAME[:SETTINGS] or MODULE:CLASS[:SETTINGS].

    What stands before the first colon is a name where it is one of `names` or of an entry point; else, where the word
    after it could be a class, the two are MODULE:CLASS.
    """
    head, _, rest = text.partition(":")
    inner, _, settings = rest.partition(":")
    if head in names or not (MODULE.fullmatch(head) and CLASS.fullmatch(inner)) or is_named(kind, head):
        return head, rest
    return f"{head}:{inner}", settings


def find(kind: str, table: Mapping[str, type[T]], name: str) -> type[T]:
    """The class `name`: of `table`, MODULE:CLASS, or of an entry point. The last two run the code of that module.

    Raises:
        InputError: there is no such class, it cannot be imported, or it is no method of this kind.
    """
    if not isinstance(name, str):  # in a record that somebody wrote
        raise InputError(unknown(kind, [str(name)], table))
    if name in table:
        return table[name]
    made = import_object(_target(kind, table, name), f"{kind} {name}", table)
    if problem := _class_problem(made, getattr(table, "base", object)):
        raise InputError(f"{kind} {name} {problem}")
    _names.setdefault((kind, made), _short_name(kind, table, made) or name)
    found: type[T] = made
    return found


def name_of(table: Mapping[str, type[T]], plugin: T) -> str:
    """The name of `plugin`'s class: in `table`, of its entry point, else MODULE:CLASS."""
    cls = type(plugin)
    own = next((name for name, one in table.items() if one is cls), None)
    kind = getattr(table, "kind", "")
    return own or _names.get((kind, cls)) or _short_name(kind, table, cls) or _full_name(cls)


def import_object(name: str, what: str, known: Iterable[str] = ()) -> Any:
    """What `name`, "module:attribute", names; `what` it is for, and the `known` names, are for messages.

    Raises:
        InputError: it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        hints = unknown("name", [module], known, 10) if absent and known and "." not in module else []
        hints += ["a module of your own must lie where Python looks (PYTHONPATH=.)"] * absent
        raise InputError("; ".join([f"{what} cannot be imported: {_said(error)}", *hints])) from error
    _modules[module] = None
    return found


def target_of(kind: str, name: str) -> str | None:
    """The "module:attribute" that `name` stands for: itself, or what an entry point says; None where there is none."""
    if ":" in name:
        return name
    found = entry_points(kind).get(name, [])
    return found[0].value if len(found) == 1 else _told.get((kind, name))


def is_named(kind: str, name: str) -> bool:
    """Whether an installed package gives a method of this kind that name, here or where the sweep was planned."""
    return name in entry_points(kind) or (kind, name) in _told


def modules_in_use() -> tuple[str, ...]:
    """The modules of other people that this process has taken methods and networks from."""
    return tuple(_modules)


def names_in_use() -> dict[tuple[str, str], str]:
    """What the names of entry points stand for, (kind, name) -> module:Class, of those that this process uses."""
    used = {(kind, name) for (kind, _), name in _names.items() if ":" not in name}
    return {(kind, name): target for kind, name in used if (target := target_of(kind, name))} | _told


def use_names(told: Mapping[tuple[str, str], str]) -> None:
    """Take `names_in_use` of the process that planned: here the package may lie without its entry points."""
    _told.update(told)


def note_name(kind: str, name: str) -> None:
    """Note that this process uses the entry point `name`, of something that is no class."""
    _told.update({(kind, name): target} if (target := target_of(kind, name)) else {})


def refused_names(kind: str, names: Iterable[str]) -> list[str]:
    """A line for each entry point whose name is one of raybd's own, which goes on to mean what it did."""
    taken = set(names)
    return [
        f"{kind} {name} is raybd's own: {_of(one)} is refused under that name (it is {one.value})"
        for name, found in entry_points(kind).items()
        for one in found
        if name in taken
    ]


def entry_points(kind: str) -> dict[str, list[EntryPoint]]:
    """The entry points of a kind by their names; several where packages disagree. None of them is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for one in all_entry_points():
        if one.group == GROUPS.get(kind, ""):
            found.setdefault(one.name, []).append(one)
    return found


@cache  # reads a file of every installed package
def all_entry_points() -> tuple[EntryPoint, ...]:
    """Those of raybd's groups."""
    seen, groups = set[str](), set(GROUPS.values())
    found: list[EntryPoint] = []
    for package in distributions():
        try:
            name, own = package.name, [one for one in package.entry_points if one.group in groups]
        except Exception:  # noqa: BLE001 - a package whose metadata are broken offers nothing
            continue
        if name not in seen:  # the first on the path is the one that is imported
            seen.add(name)
            found += own
    return tuple(found)


def _target(kind: str, table: Mapping[str, Any], name: str) -> str:
    """The MODULE:CLASS of a name that is not of `table`."""
    if len(found := entry_points(kind).get(name, [])) > 1:
        raise InputError(f"{kind} {name} is offered by {' and '.join(map(_of, found))}: name one as {found[0].value}")
    if target := target_of(kind, name):
        return target
    raise InputError(unknown(kind, [name], [*table, *entry_points(kind)]))


def _of(entry: EntryPoint) -> str:
    return f"that of {entry.dist.name if entry.dist else 'a package'}"


def _short_name(kind: str, table: Mapping[str, Any], cls: type) -> str | None:
    """The name that an entry point gives `cls`, where it is the only one of that name."""
    if kind not in GROUPS:
        return None
    values = {name: found[0].value for name, found in entry_points(kind).items() if len(found) == 1}
    values |= {name: target for (other, name), target in _told.items() if other == kind}
    return next((name for name, value in values.items() if value == _full_name(cls) and name not in table), None)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, Exception) else f"it ends the program ({type(error).__name__}: {error})"


def _class_problem(cls: Any, base: type) -> str:
    """Why `cls` is no method with the base class `base`; "" if it is one."""
    if not isinstance(cls, type):
        return f"is no class but {type(cls).__name__}"
    if not issubclass(cls, base):
        return f"is no class derived from {base.__module__.removesuffix('.base')}.{base.__name__}"
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"lacks {', '.join(missing)}"
    if not is_dataclass(cls) or _plain_annotations(cls):
        return "is no dataclass: write @dataclass(frozen=True, kw_only=True) before it"
    if bare := [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]:
        return f"has settings without a default: {', '.join(bare)}"
    return ""


def _plain_annotations(cls: type) -> list[str]:
    """Annotations of `cls` itself that are no fields: its decorator was forgotten."""
    known = {f.name for f in fields(cls)}
    hints = get_type_hints(cls)
    own = [name for name in inspect.get_annotations(cls) if get_origin(hints[name]) is not ClassVar]
    return [name for name in own if name not in known and hints[name] is not ClassVar]
