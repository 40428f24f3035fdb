"""The scripts that compare defences, from their options to their tables, in this process."""

import json
from pathlib import Path

import pytest

from raybd.command_line.command import main
from raybd.command_line.search_grid import expand_comparison
from raybd.tracking import load_runs
from sweeps import defences, vibe

TINY = ["--epochs", "2", "--widths", "0.25", "--seeds", "1", "--inline"]


def places(tmp_path: Path) -> list[str]:
    return ["--results", str(tmp_path / "r"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]


def test_the_search_and_its_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, *places(tmp_path), "--candidates", "2", "--search-seeds", "1", "--attacks", "badnets"]
    args += ["--held-out", "ftrojan", "--base", "vibe:pretrain_epochs=1,iterations=20,e_steps=1"]
    assert main(vibe.PRESETS, vibe.summarise, args, vibe.search, expand_comparison) == 0
    said = capsys.readouterr().out
    for part in ("Pareto front", "2 candidates, 0 failed", "ftrojan *", "never seen", "default", "winner"):
        assert part in said
    folder = tmp_path / "r" / "vibe"
    found = json.loads((folder / "search.json").read_text())
    assert found["defences"]["winner"]["name"] == "vibe"
    assert {"defences.csv", "defences.png", "pareto.png", "optuna.db"} <= {path.name for path in folder.iterdir()}
    runs = load_runs("vibe", f"sqlite:///{tmp_path}/m.db")
    assert not runs[runs["params.attack.name"] == "ftrojan"].empty
    count = len(runs)
    assert (
        main(vibe.PRESETS, vibe.summarise, args, vibe.search, expand_comparison) == 0
    )  # nothing is left to try, or to train
    assert "2 candidates have finished, 0 to run" in capsys.readouterr().out
    assert len(load_runs("vibe", f"sqlite:///{tmp_path}/m.db")) == count
    others = ["blended" if part == "badnets" else part for part in args]
    assert main(vibe.PRESETS, vibe.summarise, others, vibe.search, expand_comparison) == 2
    refused = capsys.readouterr().err
    assert "choose another --name" in refused
    assert "badnets then, blended now" in refused
    more = [
        *args,
        "--held-out",
        "low_frequency",
    ]  # the same question, another comparison: its table has no other's trials
    assert main(vibe.PRESETS, vibe.summarise, more, vibe.search, expand_comparison) == 0
    assert "ftrojan" not in capsys.readouterr().out


def test_defences_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, *places(tmp_path), "--attacks", "badnets", "blended", "--defences", "none", "oracle"]
    assert main(defences.PRESETS, defences.summarise, args, expand=defences.expand) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["oracle", "truth"] in [line[:2] for line in lines]
    runs = load_runs("defences", f"sqlite:///{tmp_path}/m.db")
    assert len(runs) == 2 * (1 + 2)  # a clean twin and two attacks for each
    assert "recall" in (tmp_path / "r" / "defences" / "defences.csv").read_text().splitlines()[0]


def test_options_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, *places(tmp_path), "--held-out", "badnets", "--sampler", "cma", "--base", "vibes"]
    assert main(vibe.PRESETS, vibe.summarise, args, vibe.search, expand_comparison) == 2
    said = capsys.readouterr().err
    assert "held out and seen" in said
    assert "cma" in said
    assert "did you mean vibe?" in said
    wrong = [*TINY, *places(tmp_path), "--storage", f"sqlite:///{tmp_path}/no/folder/s.db"]
    assert main(vibe.PRESETS, vibe.summarise, wrong, vibe.search, expand_comparison) == 2
    assert "cannot be used" in capsys.readouterr().err
