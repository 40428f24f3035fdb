"""`raybd map`, `runs`, `report` and `rerun` as people type them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.signal.observations import last_epochs
from raybd import tracking
from raybd.cli import main
from raybd.errors import InputError
from tests.test_report import runs

UNREACHABLE = "sqlite:////nowhere/at/all.db"


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: runs(error="boom"))
    monkeypatch.setattr("raybd.tracking.load_histories", lambda *_: last_epochs(runs(error="boom")))


def said(capsys, *args, status=0):
    assert main(args) == status
    found = capsys.readouterr()
    return found.err if status else found.out


@pytest.mark.usefixtures("store")
def test_a_question_is_answered(capsys):
    text = said(capsys, "map", "ib", "query", "attack=badnets", "poison_rate=0.1", "width=1")
    assert text.startswith("backdoored at attack=badnets, poison_rate=0.1, width=1\n")
    found = json.loads(said(capsys, "map", "ib", "query", "poison_rate=0.1", "width=0.5", "--json"))
    assert (found["status"], found["setting"]["width"]) == ("unmeasured", 0.5)
    assert found["attack_success"] is None
    assert [text.partition(": ")[2] for text in found["failures"]] == ["boom"] * 3
    loose = said(capsys, "map", "ib", "query", "poison_rate=0.1", "width=1", "--max-attack-success", "0.95")
    assert loose.startswith("defended")


@pytest.mark.usefixtures("store")
def test_the_map_and_the_runs_are_shown(capsys):
    assert len(said(capsys, "map", "ib", "show").splitlines()) == 7
    cells = json.loads(said(capsys, "map", "ib", "show", "--json"))
    assert [cell["failures"] for cell in cells] == [0, 0, 0, 0, 3, 0]
    lines = said(capsys, "runs", "ib").splitlines()
    assert lines[0].split() == "run_id status seed attack poison_rate width clean accuracy attack success error".split()
    assert len(lines) == 19
    assert json.loads(said(capsys, "runs", "ib", "--json"))[-1]["run_id"] == "1-0.1-2"


@pytest.mark.usefixtures("store")
def test_tables_as_csv_and_latex(capsys):
    cells = pd.read_csv(io.StringIO(said(capsys, "map", "ib", "show", "--csv")))
    assert len(cells) == 6
    assert {"width", "poison_rate", "status", "attack_success_excess_low"} <= set(cells)
    assert len(pd.read_csv(io.StringIO(said(capsys, "runs", "ib", "--csv")))) == 18
    one = pd.read_csv(io.StringIO(said(capsys, "map", "ib", "query", "poison_rate=0.1", "width=1", "--csv")))
    assert one["status"].tolist() == ["backdoored"]
    table = said(capsys, "map", "ib", "show", "--latex")
    assert table.startswith("\\begin{tabular}")
    assert "\\toprule" in table
    assert "poison\\_rate" in table
    assert "$\\pm$" in table
    assert "at most" in said(capsys, "map", "ib", "show", "--latex", "--csv", status=2)


def test_several_sweeps_are_one_map(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("raybd.tracking.load_runs", lambda names, *_, **__: asked.append(names) or runs())
    assert "badnets" in said(capsys, "map", "ib", "finer", "show")
    assert said(capsys, "map", "ib", "query", "poison_rate=0.1", "width=1").startswith("backdoored")
    assert asked == [["ib", "finer"], ["ib"]]


@pytest.mark.parametrize("words", [[], ["ib"], ["show"], ["ib", "finer"]])
def test_words_that_ask_nothing(capsys, words):
    assert "raybd map NAME [NAME ...] show | query" in said(capsys, "map", *words, status=2)


def test_a_mistyped_axis_of_many_is_told_the_ten_nearest():
    rows = [
        {"attack.name": "badnets", "poison_rate": 0.1, "seed": s, "clean_accuracy": 1.0, "attack_success": 0.5}
        for s in (0, 1)
    ]
    frame = pd.DataFrame([row | {f"train.setting_{i}": row["seed"] for i in range(40)} for row in rows])
    with pytest.raises(InputError) as caught:
        DefendedRegionMap.from_frame(frame).query(poison_rat=0.1)
    (problem,) = caught.value.problems
    assert problem.startswith("unknown axis: poison_rat (nearest of 42 known: poison_rate, ")
    assert problem.count(",") == 9
    assert problem.endswith("did you mean poison_rate?)")


@pytest.mark.usefixtures("store")
def test_the_report_is_written(capsys, tmp_path):
    path = tmp_path / "r.html"
    assert said(capsys, "report", "ib", "--out", str(path)) == f"{path}\n"
    assert path.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["query", "atack=badnets"], "unknown axis: atack (known: attack, poison_rate, width; did you mean attack?)"),
        (["query", "badnets"], "a setting is AXIS=VALUE, not badnets"),
        (["query", "attack=badnets", "attack=wanet"], "query: attack is given 2 times"),
        (["show", "attack=badnets"], "show takes no setting"),
        (["show", "--max-attack-success", "2"], "max_attack_success must be in [0, 1], got 2"),
    ],
)
def test_bad_questions(capsys, args, says):
    assert says in said(capsys, "map", "ib", *args, status=2)


@pytest.mark.parametrize("command", [["map", "ib", "show"], ["runs", "ib"], ["report", "ib"], ["rerun", "abc"]])
def test_a_store_that_is_not_there(capsys, command):
    text = said(capsys, *command, "--tracking-uri", UNREACHABLE, status=2)
    assert "there is no tracking store at /nowhere/at/all.db" in text


def test_a_value_that_was_not_measured_is_no_error(capsys, store):
    assert "wanet was not measured (measured: badnets)" in said(capsys, "map", "ib", "query", "attack=wanet")


def test_a_sweep_without_trials(capsys, monkeypatch):
    monkeypatch.setattr("raybd.tracking.load_runs", lambda *_, **__: pd.DataFrame())
    assert "no trial is logged in 'ib'" in said(capsys, "map", "ib", "show", status=2)
    assert "no trial is logged in 'ib'" in said(capsys, "runs", "ib", status=2)


@pytest.mark.long
def test_a_trial_comes_out_the_same_again(capsys, tmp_path: Path, monkeypatch):
    from raybd.command_line.command import main as sweep
    from sweeps.ib import PRESETS, summarise
    from tests.test_cli import SMALL

    uri = f"sqlite:///{tmp_path}/m.db"
    args = [*SMALL, "--inline", "--results", str(tmp_path / "r"), "--tracking-uri", uri]
    assert sweep(PRESETS, summarise, args) == 0
    for run_id in tracking.load_runs("ib", uri)["run_id"]:
        capsys.readouterr()
        assert "all equal, to the last bit" in said(capsys, "rerun", run_id, "--tracking-uri", uri)
    record = tracking.load_record(run_id, uri)
    changed = record.metrics | {"attack_success": record.metrics["attack_success"] + 1e-12, "old": 1.0}
    monkeypatch.setattr("raybd.tracking.load_record", lambda *_: replace(record, metrics=changed))
    assert main(["rerun", run_id]) == 1
    text = capsys.readouterr().out
    assert "\n  attack_success: logged " in text
    assert "\n  old: logged 1.0, now nothing" in text
    assert text.endswith("2 differ\n")
    monkeypatch.setattr("raybd.tracking.load_record", lambda *_: replace(record, status="FAILED", error="boom"))
    assert "did not finish (boom)" in said(capsys, "rerun", run_id, status=2)
