"""raybd list, rm, mv and export, on a store with two sweeps."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from raybd.cli import main
from raybd.errors import InputError
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.tracking import load_record, load_runs, sqlite
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder
from tests.sweeping import run_inline

CONFIG = TrialConfig(train=TrainConfig(epochs=1), model=ModelConfig(width=0.25), poison_rate=0.1)


def plan(folder: Path, name: str) -> SweepPlan:
    configs = [replace(CONFIG, seed=seed) for seed in range(2)]
    return plan_sweep(name, configs, folder / "results", f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "project"
    folder.mkdir()
    for name in ("first", "second"):
        sweep = plan(folder, name)
        sweep.store.begin({"preset": "quick", "attacks": ["badnets"], "seeds": 2, "noise": 0.4}, sweep.keys)
        run_inline(sweep)
        sweep.store.end("FINISHED", {"trials": 2.0}, "the table", [])
    return folder


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "project"))


def raybd(project: Path, *args: str, results: bool = True) -> int:
    places = ["--tracking-uri", f"sqlite:///{project}/mlflow.db"]
    return main([*args, *places, *(["--results", str(project / "results")] if results else [])])


def listed(project: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert raybd(project, "list", "--json", results=False) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def test_what_a_store_holds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(project, capsys)
    assert list(found) == ["second", "first"]  # the one that was active last first
    assert found["first"]["question"] == "preset=quick attacks=badnets seeds=2"
    assert (found["first"]["trials"], found["first"]["finished"]) == (2, 2)
    assert raybd(project, "list", results=False) == 0
    assert "first  2 of 2 trials finished, last active 20" in capsys.readouterr().out


def test_a_sweep_is_deleted_for_good(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raybd(project, "rm", "first") == 2  # nobody can be asked
    assert "deletes for good: the experiment 'first'" in capsys.readouterr().out
    assert list(listed(project, capsys)) == ["second", "first"]
    assert raybd(project, "rm", "first", "--yes") == 0
    assert list(listed(project, capsys)) == ["second"]
    assert not (project / "results" / "first").exists()
    assert not (project / "mlruns" / "first").exists()
    assert len(plan(project, "first").todo) == 2  # the name is free, and nothing of it is left
    assert plan(project, "second").todo == []


def test_the_answer_is_asked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, status in (("n\n", 2), ("\n", 2), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert raybd(project, "rm", "second") == status
    assert not (project / "results" / "second").exists()


def test_a_sweep_is_renamed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = f"sqlite:///{project}/results/first/optuna.db"
    study = optuna.create_study(storage=database, study_name="first")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert raybd(project, "mv", "first", "third", "--yes") == 0
    found = listed(project, capsys)
    assert set(found) == {"second", "third"}
    again = plan(project, "third")
    assert again.todo == []
    runs = load_runs("third", again.store.address.uri, all_metrics=True)
    assert len(runs) == 2
    assert "metrics.accuracy/class/3" in runs
    assert set(runs["tags.raybd.sweep"]) == {"third"}
    assert (project / "mlruns" / "third").is_dir()
    assert not (project / "mlruns" / "first").exists()
    assert optuna.get_all_study_names(database.replace("first", "third")) == ["third"]
    assert len(plan(project, "first").todo) == 2


@pytest.mark.parametrize(("new", "reason"), [("second", "exist"), ("no/name", "cannot name a sweep")])
def test_names_that_a_sweep_cannot_get(
    project: Path, capsys: pytest.CaptureFixture[str], new: str, reason: str
) -> None:
    assert raybd(project, "mv", "first", new, "--yes") == 2
    assert reason in capsys.readouterr().err
    assert set(listed(project, capsys)) == {"first", "second"}


@pytest.mark.parametrize("command", [["mv", "first", "third"], ["rm", "first"]])
def test_a_sweep_that_a_driver_is_at_work_on_is_left_whole(
    project: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with SweepFolder(project / "results" / "first").locked():
        assert raybd(project, *command, "--yes") == 2
    assert "another process is at work on" in capsys.readouterr().err
    assert set(listed(project, capsys)) == {"first", "second"}
    assert plan(project, "first").todo == []


@pytest.mark.parametrize("command", [["rm", "nothing", "--yes"], ["mv", "nothing", "more", "--yes"]])
def test_sweeps_that_are_not_there(project: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert raybd(project, *command) == 2
    assert "there is no sweep 'nothing' in the store (there: second, first)" in capsys.readouterr().err


def test_a_sweep_is_exported(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "given away"
    assert raybd(project, "export", "first", "--out", str(out)) == 0
    shutil.move(out, tmp_path / "colleague")
    shutil.rmtree(project)
    there = tmp_path / "colleague"
    uri = f"sqlite:///{there}/mlflow.db"
    assert list(listed(there, capsys)) == ["first"]
    runs = load_runs("first", uri, all_metrics=True)
    assert len(runs) == 2
    record = load_record(runs["run_id"][0], uri)
    assert record.finished
    for name, value in record.metrics.items():
        assert runs[f"metrics.{name}"][0] == value
    again = plan(there, "first")
    assert again.todo == []
    assert len(load_runs("first", uri)) == 2
    history = again.store.client.get_metric_history(runs["run_id"][0], "attack_success")
    assert [metric.step for metric in history] == [1]
    assert raybd(there, "map", "first", "show", results=False) == 0


def test_a_sweep_that_may_only_be_read_is_exported_as_one_that_can_be_written_to(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in project.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr(sqlite, "writable", lambda path: path.parent != project)
    assert raybd(project, "export", "first", "--out", str(tmp_path / "out")) == 0
    copied = list((tmp_path / "out").rglob("*"))
    assert {path.name for path in copied} >= {"mlflow.db", "trial.json", "sent.json"}
    assert all(path.stat().st_mode & 0o200 for path in copied)


@pytest.mark.parametrize("command", [["rm", "first"], ["mv", "first", "third"]])
def test_nothing_of_a_sweep_is_changed_where_its_store_or_folder_cannot_be(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    for name, said in (("raybd.tracking.sqlite.prepare", "not writable"), ("filelock.FileLock.acquire", "written to")):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse if "lock" in name else not_writable)
            assert raybd(project, *command, "--yes") == 2
        assert said in capsys.readouterr().err
        assert set(listed(project, capsys)) == {"first", "second"}
        assert plan(project, "first").todo == []


def not_writable(uri: str) -> None:
    raise InputError(f"the tracking store {uri} is not writable")


def test_an_export_overwrites_nothing(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert raybd(project, "export", "first", "--out", str(tmp_path / "full")) == 2
    assert "holds something already" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback(project: Path) -> None:
    command = f"{sys.executable} -m raybd.cli map first show --json --tracking-uri sqlite:///{project}/mlflow.db | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
