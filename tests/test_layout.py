"""What no linter says of the layout: which import loads what, pins, and that links and make targets exist."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.processes import answered

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("analysis", ("ray", "torch", "optuna")),
        ("raybd.tracking", ("ray", "torch")),
    ],
)
def test_importing_the_one_does_not_load_the_other(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def loaded_by(module: str, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that are there once `module` is imported."""
    importlib.import_module(module)
    return sorted(set(names) & set(sys.modules))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("raybd.trials.run", ("ray", "mlflow", "optuna")),
        ("raybd.execution.sweep", ("ray",)),
        ("sweeps.ib", ("ray", "mlflow", "sklearn", "scipy.stats", "pandas", "matplotlib")),  # slow to import
    ],
)
def test_importing_what_needs_torch_does_not_load_the_other(module: str, absent: tuple[str, ...]) -> None:
    """In a process that has imported `raybd.trials.run`, and with it PyTorch, alone."""
    assert answered(loaded_by, module, (*absent, "torch")) == ["torch"]


def test_everything_that_is_needed_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["docs"]
    names = {re.split(r"[\[<>=]", line)[0].lower() for line in wanted}
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert names <= pinned


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_documents_link_to_files_and_headings_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md"), *(ROOT / "cluster").glob("*.md")]:
        text = re.sub(r"```.*?```|``.*?``|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)  # no code
        for link in re.findall(r"\]\(([^)]+)\)", text):
            if "://" not in link:
                file, _, heading = link.partition("#")
                target = page.parent / file if file else page
                assert target.exists(), f"{page.name} links to {link}"
                assert not heading or heading in headings(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_site_s_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = set(re.findall(r"^([\w/]+)$", index, re.MULTILINE))
    pages = [*(ROOT / "docs").glob("**/*.md"), *(ROOT / "docs").glob("**/*.rst")]
    names = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in pages}
    assert names - {"index"} == listed


def test_the_readme_s_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets
