"""Arrays and weights are read without unpickling; other calls that run what a file says are the linter's to find."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("raybd", "analysis", "sweeps")


def calls(source: str) -> Iterator[tuple[str, dict[str | None, str]]]:
    """Every call in `source`: the full name of what is called, whatever it was imported as, and its keywords."""
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield names.get(first, first) + dot + rest, {k.arg: ast.unparse(k.value) for k in node.keywords}


def unpickling(source: str) -> list[bool]:
    """Of every `torch.load` and `numpy.load` in `source` whether it may unpickle."""
    checks = {
        "torch.load": lambda said: said.get("weights_only") != "True",
        "numpy.load": lambda said: said.get("allow_pickle", "False") != "False",
    }
    return [checks[name](said) for name, said in calls(source) if name in checks]


def test_arrays_and_weights_are_read_without_unpickling() -> None:
    assert unpickling("import torch as t\nt.load(f)\nt.load(f, weights_only=flag)") == [True, True]
    assert unpickling("from numpy import load\nload(f, allow_pickle=True)\nload(f)") == [True, False]
    found = [
        bad for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") for bad in unpickling(path.read_text())
    ]
    assert found
    assert not any(found)
