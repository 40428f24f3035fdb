"""The landing page of a sweep in MLflow: a shared view, verdicts as tags, a description."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from raybd.cli import main
from raybd.command_line import ui
from raybd.execution.plan import varying
from raybd.tracking import load_runs, tagging
from raybd.tracking.data_inputs import log_data
from raybd.tracking.landing import VERDICT, VIEW_TAG, view_of
from raybd.tracking.store import NOTE, Store
from raybd.tracking.store_file import StoreFile
from raybd.tracking.verdicts import tag_verdicts
from raybd.training import TrainConfig
from raybd.trials.config import TrialConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a sweep of three trials."""
    folder = tmp_path_factory.mktemp("store")
    made = Store.open("ib", f"sqlite:///{folder}/mlflow.db")
    for number in range(3):
        run = made.client.create_run(made.address.experiment_id, tags={"raybd.kind": "trial", "raybd.key": str(number)})
        made.client.log_param(run.info.run_id, "attack.name", "badnets")
    return made


def ids(store: Store) -> list[str]:
    return sorted(load_runs("ib", store.address.uri)["run_id"])


def tag(store: Store, given: dict[str, str]) -> int:
    return tag_verdicts(load_runs("ib", store.address.uri), given, store.address.uri)


def read(store: Store) -> list[str | None]:
    """The verdicts of the runs, as MLflow's client reads them."""
    return [store.client.get_run(run).data.tags.get(VERDICT) for run in ids(store)]


def test_the_columns_are_what_varies() -> None:
    configs = [
        TrialConfig(seed=seed, poison_rate=rate, train=TrainConfig(weight_decay=decay))
        for seed in range(2)
        for rate in (0.0, 0.1)
        for decay in (0.1, 0.2)
    ]
    found = json.loads(view_of(varying(configs)))
    assert found["selectedColumns"] == [
        *("params.`attack.name`", "params.`poison_rate`", "params.`train.weight_decay`", "params.`defence.name`"),
        *("metrics.`accuracy/clean`", "metrics.`attack_success`", f"tags.`{VERDICT}`", "params.`seed`"),
    ]
    assert varying([]) == ()


def test_a_view_of_many_parameters_fits_a_tag() -> None:
    assert len(view_of(f"train.a_rather_long_name_{number}" for number in range(200))) < 5000


def test_a_sweep_has_a_view_and_a_description(store: Store) -> None:
    store.begin({}, ["0"], ("train.weight_decay",))
    store.end("FINISHED", {"trials": 1.0}, "note", [], findings="- Of 4 settings with poison, 3 are defended.")
    tags = store.client.get_experiment(store.address.experiment_id).tags
    assert tags[VIEW_TAG] == view_of(["train.weight_decay"])
    assert tags[NOTE].endswith("- Of 4 settings with poison, 3 are defended.")
    assert store.link("http://localhost:5000/").startswith("http://localhost:5000/#/experiments/")


def test_verdicts_become_tags_and_only_the_changed_ones_are_written(store: Store) -> None:
    first, second, third = ids(store)
    assert tag(store, {first: "defended", second: "uncertain", "unknown": "defended"}) == 2
    assert read(store) == ["defended", "uncertain", None]
    assert tag(store, {first: "defended", second: "backdoored", third: "kept_out"}) == 2
    assert read(store) == ["defended", "backdoored", "kept_out"]


def test_other_stores_get_them_by_mlflow_s_client(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log_batch, told = MlflowClient.log_batch, list[str]()

    def noted(self: MlflowClient, run_id: str, **given: Any) -> None:
        told.append(run_id)
        log_batch(self, run_id, **given)

    first = ids(store)[0]
    with monkeypatch.context() as patch:
        patch.setattr(StoreFile, "of", lambda uri: None)
        patch.setattr(MlflowClient, "log_batch", noted)
        assert tag_verdicts(pd.DataFrame({"run_id": [first]}), {first: "uncertain"}, store.address.uri) == 1
    assert told == [first]
    assert read(store)[0] == "uncertain"


def test_a_store_that_cannot_be_written_to_costs_a_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tagging, "PUT", "INSERT INTO nowhere VALUES (?, ?, ?)")
    assert tag(store, {ids(store)[0]: "kept_out"}) == 0
    assert "the verdicts are not in the tracking store" in caplog.text


def test_verdicts_of_many_trials_cost_no_more_than_each_its_share(store: Store, tmp_path: Path) -> None:
    """10,000 runs, copied in the file itself: making them with MLflow would take minutes."""
    import sqlite3

    path = tmp_path / "mlflow.db"
    source = Path(store.address.uri.removeprefix("sqlite:///"))
    with sqlite3.connect(source) as one, sqlite3.connect(path) as other:
        one.backup(other)
        names = [row[1] for row in other.execute("PRAGMA table_info(runs)")]
        (row,) = other.execute("SELECT * FROM runs WHERE run_uuid = ?", ids(store)[:1])
        at = names.index("run_uuid")
        made = [(*row[:at], f"{number:032x}", *row[at + 1 :]) for number in range(10_000)]
        other.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * len(names))})", made)
        tags = [("raybd.kind", "trial", one[at]) for one in made]
        other.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
    runs, start = load_runs("ib", f"sqlite:///{path}"), time.perf_counter()
    assert tag_verdicts(runs, {one[at]: "defended" for one in made}, f"sqlite:///{path}") == 10_000
    assert time.perf_counter() - start < 5
    client = MlflowClient(f"sqlite:///{path}")
    assert client.get_run(made[-1][at]).data.tags[VERDICT] == "defended"


def test_a_run_has_its_data_set_as_its_input(store: Store) -> None:
    run = ids(store)[0]
    log_data(store.client, run, {"data": "digits", "fingerprint": "f" * 64})
    log_data(store.client, ids(store)[1], {"data": "digits", "fingerprint": "f" * 64})
    (found,) = store.client.get_run(run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "f" * 36)
    assert len(load_runs("ib", store.address.uri)) == 3


def test_a_store_that_refuses_the_input_is_warned_of(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    log_data(store.client, "no such run", {"data": "digits", "fingerprint": "f"})
    assert "no data set as its input" in caplog.text


def test_the_ui_prints_the_pages_of_the_sweeps(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "_replace_process", lambda *_: 0)
    assert main(["ui", "--tracking-uri", store.address.uri]) == 0
    assert re.search(r"\n  ib: http://localhost:\d+/#/experiments/\d+/runs\?workflowType=", capsys.readouterr().out)
