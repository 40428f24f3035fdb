"""A store is known by what is in it: moved, copied, or under another spelling, it is the same one."""

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raybd.errors import InputError
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.tracking import load_record, load_runs, sqlite, sweeps
from raybd.tracking.audits import log_audit
from raybd.tracking.relocation import relocate_all
from raybd.tracking.status import status
from raybd.tracking.store import Store
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from tests.sweeping import run_inline

CONFIG = TrialConfig(train=TrainConfig(epochs=1), model=ModelConfig(width=0.25), poison_rate=0.1)


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def plan(folder: Path, store: str | None = None, seeds: int = 2) -> SweepPlan:
    configs = [replace(CONFIG, seed=seed) for seed in range(seeds)]
    return plan_sweep("ib", configs, folder / "results", store or uri(folder))


def run_two(folder: Path) -> Path:
    folder.mkdir(parents=True)
    first = plan(folder)
    first.store.begin({}, first.keys)
    assert run_inline(first).exit_status == 0
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose sweep of two trials has ended; no test changes it."""
    return run_two(tmp_path_factory.mktemp("original") / "project")


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "project"))


def check_whole(folder: Path) -> None:
    """Everything of the sweep is found at `folder`, and the same sweep has nothing to do and sends nothing."""
    assert status("ib", uri(folder)).planned == 2
    runs = load_runs("ib", uri(folder), all_metrics=True)
    assert len(runs) == 2
    assert "metrics.accuracy/class/3" in runs
    assert load_record(runs["run_id"][0], uri(folder)).finished
    again = plan(folder)
    assert again.todo == []
    assert len(load_runs("ib", uri(folder))) == 2


def test_a_moved_project_is_the_same(tmp_path: Path) -> None:
    project = run_two(tmp_path / "project")
    moved = tmp_path / "elsewhere" / "there"
    moved.parent.mkdir()
    shutil.move(project, moved)
    check_whole(moved)
    assert run_inline(plan(moved, seeds=3)).exit_status == 0
    assert not project.exists()  # nothing is written to the old place
    runs = load_runs("ib", uri(moved), all_metrics=True)
    assert len(runs) == 3
    assert runs["metrics.accuracy/class/3"].notna().all()
    client = Store.open("ib", uri(moved)).client
    for run_id in runs["run_id"]:
        assert client.get_run(run_id).info.artifact_uri == (moved / "mlruns" / "ib" / run_id / "artifacts").as_uri()


def test_a_copied_project_leaves_the_first_one_alone(original: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(original, tmp_path / "copy of_it"))
    before = sorted(path for path in original.rglob("*") if "mlruns" in path.parts)
    assert run_inline(plan(copy, seeds=3)).exit_status == 0
    assert sorted(path for path in original.rglob("*") if "mlruns" in path.parts) == before
    assert len(load_runs("ib", uri(copy))) == 3
    check_whole(original)


def test_a_copy_of_the_file_alone_leaves_the_artifacts_of_the_first_one_alone(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(original / "mlflow.db", copy)
    before = sorted(path for path in original.rglob("*") if "mlruns" in path.parts)
    assert run_inline(plan(copy, seeds=3)).exit_status == 0
    assert sorted(path for path in original.rglob("*") if "mlruns" in path.parts) == before
    runs = load_runs("ib", uri(copy), all_metrics=True)
    assert runs["metrics.accuracy/class/3"].notna().tolist() == [True] * 3
    sweeps.delete_sweep("ib", uri(copy))
    assert not (copy / "mlruns" / "ib").exists()
    check_whole(original)


def test_a_place_that_somebody_chose_for_artifacts_stays(tmp_path: Path) -> None:
    store = Store.open("other", uri(tmp_path))
    (tmp_path / "chosen").mkdir()
    store.client.create_experiment("ib", (tmp_path / "chosen").as_uri())
    relocate_all(uri(tmp_path))
    assert (
        Store.open("ib", uri(tmp_path)).client.get_experiment_by_name("ib").artifact_location
        == (tmp_path / "chosen").as_uri()
    )


def test_the_ui_and_an_audit_of_a_moved_store_know_where_its_artifacts_are(project: Path) -> None:
    log_audit("digits", {}, {}, {}, [], uri(project))
    moved = project.rename(project.with_name("moved"))
    relocate_all(uri(moved))
    log_audit("digits", {}, {}, {}, [], uri(moved))
    client = Store.open("ib", uri(moved)).client
    for name in ("ib", "audits"):
        assert client.get_experiment_by_name(name).artifact_location == (moved / "mlruns" / name).as_uri()


@pytest.mark.parametrize("target", ["", "mlflow.db"])
def test_a_store_reached_by_a_link_is_the_same(project: Path, tmp_path: Path, target: str) -> None:
    link = tmp_path / "link" / target
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(project / target)
    again = plan(project, uri(tmp_path / "link"))
    assert again.todo == []
    assert len(load_runs("ib", uri(project))) == 2
    assert again.store.address.identity == plan(project).store.address.identity


def test_states_of_the_first_release_are_taken_over(project: Path) -> None:
    for path in project.glob("results/ib/trials/*/sent.json"):
        (state,) = json.loads(path.read_text()).values()
        path.write_text(json.dumps({"sqlite:////old/place/mlflow.db 1": state}))
    check_whole(project)


def test_another_store_gets_every_trial(project: Path, tmp_path: Path) -> None:
    other = plan(project, f"sqlite:///{tmp_path}/other.db")
    assert other.todo == []
    assert len(load_runs("ib", f"sqlite:///{tmp_path}/other.db")) == 2
    check_whole(project)


def test_a_deleted_experiment_names_the_remedy(tmp_path: Path) -> None:
    store = Store.open("gone", uri(tmp_path))
    store.client.delete_experiment(store.address.experiment_id)
    with pytest.raises(InputError, match="experiments restore --experiment-id"):
        Store.open("gone", uri(tmp_path))


def test_a_store_that_may_only_be_read_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "writable", lambda _: False)
    monkeypatch.chdir(project)
    before = sorted(path.name for path in project.iterdir())
    assert [entry.finished for entry in sweeps.list_sweeps(uri(project))] == [2]
    assert status("ib", uri(project)).planned == 2
    runs = load_runs("ib", uri(project), all_metrics=True)
    assert len(runs) == 2
    assert load_record(runs["run_id"][0], uri(project)).finished
    assert sorted(path.name for path in project.iterdir()) == before


@pytest.mark.parametrize("index", [True, False])
def test_what_is_in_the_log_of_a_store_that_may_only_be_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    connection = sqlite3.connect(project / "mlflow.db")
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("UPDATE experiments SET name = 'renamed' WHERE name = 'ib'")
    connection.commit()
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    assert (copy / "mlflow.db-wal").stat().st_size
    if not index:
        (copy / "mlflow.db-shm").unlink()
    connection.close()
    monkeypatch.setattr(sqlite, "writable", lambda _: False)
    assert len(load_runs("renamed", uri(copy))) == 2


def test_the_file_alone_is_the_whole_store_after_a_sweep(project: Path, tmp_path: Path) -> None:
    more = plan(project, seeds=3)
    run_inline(more)
    more.store.end("FINISHED", {"trials": 3.0}, "", [])
    shutil.copy(project / "mlflow.db", tmp_path / "alone.db")
    assert len(load_runs("ib", f"sqlite:///{tmp_path}/alone.db")) == 3


@pytest.mark.long
def test_sweeps_that_start_at_the_same_moment_make_one_store(tmp_path: Path) -> None:
    code = "import sys; from raybd.tracking.store import Store; Store.open(*sys.argv[1:])"
    commands = [[sys.executable, "-c", code, name, uri(tmp_path)] for name in ("one", "two", "three")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path) for command in commands]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    names = {e.name for e in Store.open("one", uri(tmp_path)).client.search_experiments()}
    assert {"one", "two", "three"} <= names


def test_a_store_whose_making_is_interrupted_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        with sqlite3.connect(path) as connection:  # some of MLflow's tables and not the others
            connection.execute("CREATE TABLE registered_models (name TEXT)")
        connection.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "make_tables", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Store.open("ib", uri(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()
    Store.open("ib", uri(tmp_path))
    assert not list(tmp_path.glob(".mlflow.db.*"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("a text of more than a hundred letters" * 10)
    with pytest.raises(InputError, match="cannot be used: file is not a database"):
        Store.open("ib", uri(tmp_path))


def test_a_file_that_may_not_be_written_to_is_told_before_anything_is_copied(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(original / "mlflow.db", tmp_path)
    monkeypatch.setattr(sqlite, "writable", lambda _: False)
    with pytest.raises(InputError, match="is not writable: .*Permission denied"):
        Store.open("ib", uri(tmp_path))
    assert not (tmp_path / "mlruns").exists()


def test_a_store_that_cannot_be_written_to_is_told_before_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MlflowClient, *args: object, **kwargs: object) -> None:
        raise MlflowException("attempt to write a readonly database")

    monkeypatch.setattr(MlflowClient, "set_tag", refuse)
    with pytest.raises(InputError, match="is not writable"):
        plan(project, seeds=3)
