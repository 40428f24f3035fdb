"""The tables of settings in the reference of the Python API."""

import importlib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Interval

from raybd.attacks import ATTACKS, Attack, BadNets
from raybd.defences import DEFENCES
from raybd.metrics import METRICS


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    folder = str(Path(__file__).parent.parent / "docs" / "extensions")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("settings_table")
    finally:
        sys.path.remove(folder)


@dataclass
class Example:
    """Every way to say what a field is."""

    behind: int = 3  # a `comment` behind it
    # a comment above it,
    # in two lines
    above: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    below: Literal["a#b", "c"] = "a#b"
    """A string below it."""
    silent: tuple[Annotated[int, Ge(1)], ...] = field(default_factory=tuple)
    needed: str | None = field(kw_only=True)


def test_what_is_said_of_a_field(tables: ModuleType) -> None:
    said = {
        "behind": "a `comment` behind it",
        "above": "a comment above it, in two lines",
        "below": "A string below it.",
        "silent": "",
        "needed": "",
    }
    assert tables.field_comments(Example) == said


def test_the_table_of_a_class(tables: ModuleType) -> None:
    lines = [line.strip(" *-") for line in tables.settings_table(Example)]
    rows = [lines[i : i + 4] for i in range(4, len(lines), 4)]
    assert rows[1:] == [
        ["``behind``", "int", "``3``", "a `comment` behind it"],
        ["``above``", "float in [0, 1)", "``0.5``", "a comment above it, in two lines"],
        ["``below``", r"'a#b' \| 'c'", "``'a#b'``", "A string below it."],
        ["``silent``", "tuple of int at least 1", "``()``", ""],
        ["``needed``", r"str \| None", "needed", ""],
    ]


def test_settings_of_all_attacks_stand_with_the_base_alone(tables: ModuleType) -> None:
    common = {f.name for f in fields(Attack)}
    table = "\n".join(tables.settings_table(BadNets))
    assert "``size``" in table
    assert not any(f"``{name}``" in table for name in common)
    assert all(f"``{name}``" in "\n".join(tables.settings_table(Attack)) for name in common)


@pytest.mark.parametrize("methods", [ATTACKS, DEFENCES, METRICS])
def test_every_method_has_a_table_of_its_settings(tables: ModuleType, methods: dict[str, type]) -> None:
    for method in methods.values():
        own = set(method.__annotations__) & {f.name for f in fields(method)}  # type: ignore[arg-type]
        assert all(f"``{name}``" in "\n".join(tables.settings_table(method)) for name in own), method


def test_plain_text_is_no_markup(tables: ModuleType) -> None:
    assert tables.text("|x| * y_ of `a|b`") == r"\|x\| \* y\_ of `a|b`"
    code = ["The factors,", "", "    a = b * c_", "", "and more_."]
    assert tables.markup(code) == ["The factors,", "", "::", "", "    a = b * c_", "", r"and more\_."]
