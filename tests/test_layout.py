"""The house rules: imports point one way, science is light, the README's names exist."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("raybd", "analysis", "sweeps") for p in (ROOT / folder).rglob("*.py"))

# Each may import what stands before it, and its own package.
ORDER = [
    {"raybd", "raybd.errors", "raybd.seeds", "raybd.waiting", "raybd.team", "raybd.auroc"},
    {"raybd.types", "raybd.plugins", "raybd.records", "raybd.sqlite", "raybd.curves"},
    {"raybd.weighting", "raybd.parallel"},
    {"raybd.data", "raybd.models", "raybd.training", "raybd.figures", "raybd.convex"},
    {"raybd.pretraining"},
    {"raybd.attacks", "raybd.metrics", "raybd.defences"},
    {"raybd.config"},
    {"raybd.twins", "raybd.convex_trial"},
    {"raybd.trial"},
    {"raybd.experiments"},
    {"raybd.tracking"},
    {"raybd.sweep", "raybd.status", "analysis"},
    {"raybd.cli"},
    {"sweeps"},
]


def package(module: str) -> str:
    """The entry of ORDER that `module` belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "raybd" else parts[0]


def level(module: str) -> int:
    return next(i for i, modules in enumerate(ORDER) if package(module) in modules)


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {m for m in modules if (ROOT / m.replace(".", "/")).with_suffix(".py").exists()}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    here = name(path)
    for other in imports(path):
        if other.split(".")[0] in ("raybd", "analysis", "sweeps") and package(other) != package(here):
            assert level(other) < level(here), f"{here} imports {other}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_one_door_each(path: Path) -> None:
    doors = {
        "ray": ("raybd.execution.on_ray", "raybd.execution.search_on_ray"),
        "mlflow": ("raybd.experiments", "raybd.tracking"),
        "optuna": ("raybd.execution.search", "raybd.execution.search_report", "raybd.execution.search_on_ray"),
    }
    for module in imports(path):
        top = module.split(".")[0]
        assert name(path) in doors.get(top, (name(path),))
        assert not (top in ("torch", "torchvision") and name(path).startswith("analysis"))


def test_attacks_defences_and_metrics_do_not_know_each_other() -> None:
    for path in SOURCES:
        own = package(name(path))
        if own in ("raybd.attacks", "raybd.metrics", "raybd.defences"):
            others = {package(m) for m in imports(path)} & {"raybd.attacks", "raybd.metrics", "raybd.defences"}
            assert others <= {own}, f"{name(path)} imports {others}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("raybd.trial", ("ray", "mlflow", "optuna")),
        ("analysis", ("ray", "torch", "optuna")),
        ("raybd.tracking", ("ray", "torch")),
        ("raybd.sweep", ("ray",)),
        ("sweeps.ib", ("ray", "mlflow", "sklearn", "scipy.stats", "pandas", "matplotlib")),  # slow to import
    ],
)
def test_importing_the_one_does_not_load_the_other(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_needed_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in wanted}
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert names <= pinned


def test_documents_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_s_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets
