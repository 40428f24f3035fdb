"""The scripts that compare defences, from their options to their tables, in this process."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.search_summary import summarise_search
from raybd.cli.analysis_commands import write_table
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from raybd.command_line.search_grid import expand_comparison, preview_search
from raybd.defences import DEFENCES
from raybd.tracking import load_runs
from sweeps import defences, vibe

TINY = ["--epochs", "2", "--widths", "0.25", "--seeds", "1", "--figures", "none", "--inline"]


def places(tmp_path: Path) -> list[str]:
    return ["--results", str(tmp_path / "r"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]


def searched(args: list[str]) -> int:
    return main(vibe.PRESETS, summarise_search, args, vibe.search, expand_comparison, preview_search)


def check_names(tmp_path: Path, runs: pd.DataFrame, report: dict[str, Any]) -> None:
    """What the search chose can be asked of the map by its name, from the store and from a table in a file."""
    tagged = load_runs("vibe", f"sqlite:///{tmp_path}/m.db")
    keys = report["keys"]["winner"]
    named = tagged["tags.raybd.alias"].fillna("").str.split().map(lambda names: "vibe:winner" in names)
    assert set(tagged["tags.raybd.key"][named]) == set(keys)
    assert set(tagged["params.attack.name"][tagged["tags.raybd.held_out"] == "true"]) == {"ftrojan"}
    path = tmp_path / "study.csv.gz"
    assert write_table("vibe", str(path), f"sqlite:///{tmp_path}/m.db") == 0
    maps = DefendedRegionMap.from_mlflow("vibe", f"sqlite:///{tmp_path}/m.db"), DefendedRegionMap.from_file(path)
    answers = [one.query(defence="vibe:winner", attack="ftrojan", poison_rate=0.09) for one in maps]
    (run,) = answers[0].evidence
    assert tagged.set_index("run_id")["tags.raybd.key"][run] in keys
    assert [str(one) for one in answers] == [str(answers[0])] * 2
    assert [str(one.most_robust(defence="vibe")) for one in maps] == [str(maps[0].most_robust(defence="vibe"))] * 2


def test_a_dry_run_counts_what_the_search_adds(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, "--candidates", "5", "--attacks", "badnets", "blended", "--held-out", "ftrojan", "--dry-run"]
    assert searched(args) == 0
    said = capsys.readouterr().out
    assert "2 trials of training without a defence" in said
    assert "10 trials of the search, 5 candidates on 2 cases each" in said
    assert "8 trials of the winner" in said  # three attacks and a twin, twice
    assert f"{3 * 4 + 2 + 10 + 8} trials" in said


@pytest.mark.long
def test_the_search_and_its_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, *places(tmp_path), "--candidates", "3", "--encoders", "1", "--attacks", "badnets"]
    args += ["--held-out", "ftrojan", "--base", "vibe:pretrain_epochs=1,iterations=20,e_steps=1"]
    assert searched(args) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in ("Pareto front", "3 candidates, ", "ftrojan *", "never seen", "default", "winner"):
        assert part in said
    assert re.search(r"vibe:winner.* is defended against \d of 2; without a defence \d of 2 take hold", said)
    assert "held-out: " in said
    assert "It costs " in said
    folder = tmp_path / "r" / "vibe"
    found = json.loads((folder / "search.json").read_text())
    assert found["settings"]["winner"]["name"] == "vibe"
    assert {"defences.csv", "defences.png", "pareto.png", "optuna.db"} <= {path.name for path in folder.iterdir()}
    runs = load_runs("vibe", f"sqlite:///{tmp_path}/m.db")
    assert not runs[runs["params.attack.name"] == "ftrojan"].empty
    count = len(runs)
    check_names(tmp_path, runs, found)
    assert searched(args) == 0  # nothing is left to try, or to train
    assert "3 candidates have finished, 0 to run" in capsys.readouterr().out
    assert len(load_runs("vibe", f"sqlite:///{tmp_path}/m.db")) == count
    others = ["blended" if part == "badnets" else part for part in args]
    assert searched(others) == 2
    refused = capsys.readouterr().err
    assert "choose another --name" in refused
    assert "badnets then, blended now" in refused
    more = [
        *args,
        "--held-out",
        "low_frequency",
    ]  # the same question, another comparison: its table has no other's trials
    assert searched(more) == 0
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


def test_all_defences_are_those_of_the_table_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    options = SweepOptions.of(defences=("vibe", "all", "none:"), attacks=("badnets",))
    assert options.training.defence_names == ["vibe", *(name for name in DEFENCES if name != "vibe"), "none:"]
    args = [*TINY, "--attacks", "badnets", "--defences", "all", "--dry-run"]
    assert main(defences.PRESETS, defences.summarise, args, expand=defences.expand) == 0
    said = capsys.readouterr().out
    assert f"{2 * len(DEFENCES)} trials" in said  # each with a clean twin
    trials = defences.expand(SweepOptions.of(defences=("all",), attacks=("badnets",), seeds=1, validation=0.06))
    assert {trial.params["defence.name"] for trial in trials} == set(DEFENCES)


def test_options_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, *places(tmp_path), "--held-out", "badnets", "--sampler", "cma", "--base", "vibes"]
    assert searched(args) == 2
    said = capsys.readouterr().err
    assert "held out and seen" in said
    assert "cma" in said
    assert "did you mean vibe?" in said
    wrong = [*TINY, *places(tmp_path), "--storage", f"sqlite:///{tmp_path}/no/folder/s.db"]
    assert searched(wrong) == 2
    assert "cannot be used" in capsys.readouterr().err
