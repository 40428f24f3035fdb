"""No code of ours calls what runs what a file says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("raybd", "analysis", "sweeps") for p in (ROOT / folder).rglob("*.py"))
UNSAFE = re.compile(
    r"(pickle|_pickle|dill|cloudpickle|joblib|marshal|shelve)\.(load|loads|Unpickler|open)|pandas\.read_pickle"
    r"|yaml\.(load|load_all|full_load|unsafe_load)|os\.(system|popen)|eval|exec"
)


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name that `tree` imports stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call in `source` with the full name of what is called, whatever it was imported as."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield names.get(first, first) + dot + rest, node


def problems(source: str) -> list[str]:
    """Calls in `source` that would run what a file says, or a shell."""
    found = []
    for name, call in calls(source):
        said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if (
            UNSAFE.fullmatch(name)
            or (name == "torch.load" and said.get("weights_only") != "True")
            or (name == "numpy.load" and said.get("allow_pickle", "False") != "False")
            or (name.startswith("subprocess.") and said.get("shell", "False") != "False")
        ):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize(
    "bad",
    [
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=flag)",
        "from torch import load as read\nread(f, weights_only=False)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "import pickle\npickle.load(f)",
        "import pickle as p\np.Unpickler(f).load()",
        "import pandas as pd\npd.read_pickle(f)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_is_unsafe(bad: str) -> None:
    assert problems(bad)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert problems(path.read_text()) == []


def test_the_search_sees_the_loads_that_are_there() -> None:
    names = [name for path in SOURCES for name, _ in calls(path.read_text())]
    assert names.count("torch.load") >= 5
    assert names.count("numpy.load") >= 2
