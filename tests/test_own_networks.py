"""The sections of docs/own.md on networks run as they stand."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raybd.cli import main
from raybd.inspection import inspect
from raybd.inspection.figures import Measures
from raybd.metrics.detection import NeuralCleanse, NoiseVotes, Strip
from raybd.tracking import load_runs

FEW_STEPS = Measures(NeuralCleanse(runs=1, steps=30), Strip(blends=8), NoiseVotes(draws=8), points=20)
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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # as a new process would find it
    (code,) = blocks("Networks to take away", "python")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(change(code), "docs/own.md", "exec"), {})
    assert said.getvalue() == blocks("Networks to take away", "text")[0]


def test_a_network_that_is_already_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = "A network that is already trained"
    monkeypatch.setattr(inspect, "Measures", lambda: FEW_STEPS)
    (code,) = blocks(section, "python")
    exec(compile(code.replace("seed=7", "seed=7, train=raybd.TrainConfig(epochs=5)"), "docs/own.md", "exec"), {})
    (commands,) = blocks(section, "sh")
    plain, known = run_commands(commands, lambda line: line.replace("--references 9", "--references 2 --epochs 5"))
    figures = re.findall(r"^([a-z_]+/[a-z]+) ", blocks(section, "text")[0], re.MULTILINE)
    assert figures
    assert all(re.search(rf"^{name} ", plain, re.MULTILINE) for name in figures)
    assert known.startswith("suspect.pt: backdoored: the trigger works")
    assert torch.load(tmp_path / "repaired.pt", weights_only=True)


def test_pretrained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (code,), (commands,) = blocks("Pretrained weights", "python"), blocks("Pretrained weights", "sh")
    exec(compile(code, "docs/own.md", "exec"), {})
    (said,) = run_commands(commands, lambda line: f"{line} --inline --figures none")
    assert "2 trials finished" in said
    runs = load_runs("tuned")
    assert set(runs["params.model.weights"]) == {"resnet18.pth"}
    assert runs["params.model.weights.content"].notna().all()
