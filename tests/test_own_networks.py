"""The sections of docs/own.md on networks run as they stand."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from raybd.cli import main
from raybd.tracking import load_runs

PAGE = (Path(__file__).parent.parent / "docs" / "own.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The blocks of code under the heading `section`."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_commands(block: str, change: Callable[[str], str] = lambda line: line) -> list[str]:
    """What each command of a block printed; each must succeed."""
    printed = []
    for line in map(change, block.splitlines()):
        program, *args = shlex.split(line)
        assert program == "raybd"
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(args) == 0, line
        printed.append(said.getvalue())
    return printed


def test_networks_to_take_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def change(line: str) -> str:
        id_ = load_runs("taken")["run_id"].iloc[0] if "RUN_ID" in line else ""
        return line.replace("RUN_ID", id_).replace("raybd sweep ib", "raybd sweep ib --inline")

    (commands,) = blocks("Networks to take away", "sh")
    preview, *_ = run_commands(commands, change)
    assert "--keep-models last: 2 networks of 2 trials, about " in preview
    assert {path.suffix for path in tmp_path.glob("x.*")} == {".pt", ".pt2"}
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    (code,) = blocks("Networks to take away", "python")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(change(code), "docs/own.md", "exec"), {})
    assert said.getvalue() == blocks("Networks to take away", "text")[0]
