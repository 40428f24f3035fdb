"""The settings of a dataclass as a table in reStructuredText: names, types, defaults, and the comments of the fields.

Docstrings and comments of raybd are plain text with `code` and Google's sections. Needs no Sphinx.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from raybd.utils.constraints import bounds_in, describe

COMMENT = re.compile(r"^(?:[^#\"']|\"[^\"]*\"|'[^']*')*#\s?(.*)$")


def markup(lines: list[str]) -> list[str]:
    """Plain text as reStructuredText: what is indented after an empty line is shown as it stands."""
    made: list[str] = []
    literal = False
    for before, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith("    ")
        if indented and not before and made and not literal:
            made += ["::", ""]
            literal = True
        literal = literal and (indented or not line)
        made.append(line if literal else line[: len(line) - len(line.lstrip())] + text(line.lstrip()))
    return made


def text(plain: str) -> str:
    """`plain` as reStructuredText, its `code` as code."""
    parts = re.split(r"(`[^`]+`)", plain)
    return "".join(part if part.startswith("`") else _escape_markup(part) for part in parts)


def _escape_markup(plain: str) -> str:
    return re.sub(r"[\\*|`]|_(?=\W|$)", lambda found: "\\" + found[0], plain)


def settings_table(cls: Any) -> list[str]:
    """The lines of the table of the fields of `cls`, without those of an abstract base; none if there are none."""
    names = {name for base in cls.__mro__ if base is cls or not inspect.isabstract(base) for name in _annotated(base)}
    shown = [field for field in dataclasses.fields(cls) if field.name in names]
    return list(_table(cls, shown)) if shown else []


def _annotated(cls: Any) -> list[str]:
    return list(inspect.get_annotations(cls))


def _table(cls: Any, shown: list[Any]) -> Iterator[str]:
    hints, comments = get_type_hints(cls, include_extras=True), field_comments(cls)
    yield from (".. list-table::", "   :header-rows: 1", "   :class: settings", "")
    rows = [("name", "type", "default", "")]
    rows += [
        (f"``{f.name}``", text(type_text(hints[f.name])), _default(f), text(comments.get(f.name, ""))) for f in shown
    ]
    for row in rows:
        yield from (f"   {'*' if cell is row[0] else ' '} - {cell}" for cell in row)


def _default(field: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return f"``{type(made).__name__}()``" if dataclasses.is_dataclass(made) else f"``{made!r}``"
    return "needed" if field.default is dataclasses.MISSING else f"``{field.default!r}``"


def type_text(hint: Any) -> str:
    """A type in words that a user may type: bounds, words of Literals, alternatives."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = tuple(bounds_in(hint))
        return f"{type_text(inner[0])} {describe(bounds)}" if bounds else type_text(inner[0])
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, inner))
    if origin is tuple:
        return f"tuple of {type_text(inner[0])}" if inner[-1] is Ellipsis else f"({', '.join(map(type_text, inner))})"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def field_comments(cls: Any) -> dict[str, str]:
    """What is said of each field: the comment behind it, else the one above it, else the string below it."""
    found: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        lines = textwrap.dedent(inspect.getsource(base)).splitlines()
        body = ast.parse("\n".join(lines)).body[0].body  # type: ignore[attr-defined]
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = _comment(lines, node) or _string(after)
    return found


def _comment(lines: list[str], node: ast.AnnAssign) -> str:
    behind = COMMENT.match(lines[(node.end_lineno or node.lineno) - 1])
    above: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    return behind[1] if behind else " ".join(above)


def _string(node: ast.stmt | None) -> str:
    constant = node.value if isinstance(node, ast.Expr) else None
    return constant.value if isinstance(constant, ast.Constant) and isinstance(constant.value, str) else ""
