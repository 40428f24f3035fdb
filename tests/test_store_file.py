"""A store in a SQLite file is read by SQLite itself: the same runs as MLflow's client reads, without its imports."""

import gc
import importlib
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from mlflow.entities import Metric, Param, RunTag

from raybd.errors import InputError
from raybd.tracking import load_runs
from raybd.tracking.client import connect, runs_of_kind
from raybd.tracking.reader import ClientReader, find_sweeps
from raybd.tracking.store import Store
from raybd.tracking.store_file import StoreFile
from raybd.utils.process import collector_paused
from tests.test_import import said_by

HEAVY = {"torch", "ray", "mlflow", "sklearn", "matplotlib", "optuna", "sqlalchemy", "scipy.stats", "scipy.optimize"}

QUESTIONS = ("map s show", "map s query attack=a", "status s", "runs s")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Trials with every kind of value, one of them deleted, a parent run, and an experiment that is deleted."""
    made = Store.open("s", f"sqlite:///{tmp_path_factory.mktemp('store')}/with space.db")
    for number, (value, end) in enumerate([(0.5, "FINISHED"), (math.nan, "FAILED"), (math.inf, "KILLED"), (1, "")]):
        tags = {"raybd.kind": "trial", "raybd.key": f"k{number}"}
        run = made.client.create_run(made.address.experiment_id, 10**12 + number % 3, tags, run_name=f"trial {number}")
        metrics = [Metric("loss/train", step, 10**12 + step, step) for step in (0, 1)]
        metrics += [Metric("accuracy/clean", 0.25, 1, 0), Metric("accuracy/clean", value, 2, 1)]
        params = [Param("seed", str(number)), Param("attack.name", "a"), Param("poison_rate", "0.1")]
        params += [*[Param("only.here", "None")] * (number == 1)]
        made.client.log_batch(run.info.run_id, metrics, params, [RunTag("note", "ä'\n" + "x" * 300)])
        if end:
            made.client.set_terminated(run.info.run_id, end)
    gone = made.client.create_run(made.address.experiment_id, tags={"raybd.kind": "trial"})
    made.client.delete_run(gone.info.run_id)
    made.client.delete_experiment(made.client.create_experiment("deleted"))
    return made


def test_both_ways_read_the_same_runs(store: Store) -> None:
    ours, theirs = StoreFile.of(store.address.uri), ClientReader(connect(store.address.uri))
    assert ours is not None
    assert ours.experiments() == theirs.experiments()
    for kind, count in (("trial", 4), ("sweep", 1), ("other", 0)):
        first, second = (reader.runs(store.address.experiment_id, kind) for reader in (ours, theirs))
        assert len(first) == count
        for one, other in zip(first, second, strict=True):
            assert {name: getattr(other.info, name) for name in vars(one.info)} == vars(one.info)
            assert (one.data.params, one.data.tags) == (other.data.params, other.data.tags)
            assert one.data.metrics == pytest.approx(other.data.metrics, nan_ok=True, rel=0, abs=0)
            logged = [sorted(reader.logged(one.info.run_id, "loss/train")) for reader in (ours, theirs)]
            assert logged[0] == logged[1]


def test_the_table_of_runs_has_none_where_a_run_has_no_value(store: Store) -> None:
    runs = load_runs("s", store.address.uri).set_index("params.seed")
    assert runs["params.only.here"].dropna().to_dict() == {"1": "None"}
    assert math.isnan(runs["metrics.accuracy/clean"]["1"])
    assert runs["metrics.accuracy/clean"]["0"] == 0.5
    assert runs["start_time"].dt.tz is not None
    assert load_runs(["s", "s"], store.address.uri).shape[0] == 8


def test_a_store_of_another_schema_is_read_by_the_client(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = store.address.uri
    assert isinstance(find_sweeps(["s"], uri)[0], StoreFile)
    by_file = load_runs("s", uri)
    monkeypatch.setattr("raybd.tracking.store_file.SCHEMAS", {"of another version"})
    assert isinstance(find_sweeps(["s"], uri)[0], ClientReader)
    pd.testing.assert_frame_equal(load_runs("s", uri)[sorted(by_file)], by_file[sorted(by_file)])


def test_the_schema_is_that_of_the_mlflow_that_is_installed(tmp_path: Path) -> None:
    """Else this MLflow's stores are read slowly: look at its tables, and add its revision to SCHEMAS."""
    made = Store.open("s", f"sqlite:///{tmp_path}/m.db")
    assert StoreFile.of(made.address.uri) is not None


def test_what_is_no_store_of_mlflow_is_told_by_the_client(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "m.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('1234')")
    (tmp_path / "text.db").write_text("no database" * 100)
    for name in ("m.db", "text.db"):
        with pytest.raises(InputError, match="cannot be (read|used)"):
            load_runs("s", f"sqlite:///{tmp_path}/{name}")


def test_reading_writes_nothing(store: Store) -> None:
    reader = StoreFile.of(store.address.uri)
    assert reader is not None
    with pytest.raises(sqlite3.Error, match="readonly"):
        reader._rows("DELETE FROM runs")


def test_questions_import_no_heavy_library(store: Store) -> None:
    asked = [[*action.split(), "--tracking-uri", store.address.uri] for action in QUESTIONS]
    code = f"from raybd.cli import main\nassert [main(args) for args in {asked}] == [0, 0, 0, 0]\n"
    _, loaded = said_by(code)
    assert not HEAVY & set(loaded)


def test_the_collector_is_paused_for_a_while(store: Store) -> None:
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        1 / 0  # noqa: B018
    assert gc.isenabled()
    seen: list[bool] = []
    client = connect(store.address.uri)
    search = client.search_runs
    client.search_runs = lambda *args, **more: seen.append(gc.isenabled()) or search(*args, **more)  # type: ignore
    assert len(runs_of_kind(client, store.address.experiment_id, "trial")) == 4
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    "sweep", ["attacks", "boundary", "defences", "early_warning", "ib", "learning_curves", "smoothing", "vibe"]
)
def test_a_summary_reads_the_store_once(sweep: str) -> None:
    module = importlib.import_module(f"sweeps.{sweep}")
    summarise = module.summarise_search if sweep == "vibe" else module.summarise
    names = summarise.__code__.co_names
    assert len([name for name in names if name in ("load_runs", "from_mlflow", "write_report", "load")]) == 1
