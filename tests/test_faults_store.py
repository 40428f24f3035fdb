"""The tracking store goes away, is locked, or has another clock: no trial is lost, none is there twice."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.sql
from mlflow import MlflowClient

from raybd.cli import main as raybd
from raybd.command_line.command import main
from raybd.errors import InputError
from raybd.execution import attempt
from raybd.execution.plan import plan_sweep
from raybd.execution.proposers import ListProposer, Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.setup import TrialSetup
from raybd.tracking import load_runs, sqlite
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FINISHED, SweepFolder
from sweeps.ib import PRESETS, summarise
from tests.conftest import free_port
from tests.sweeping import run_inline

CONFIG = TrialConfig(train=TrainConfig(epochs=2), model=ModelConfig(name="tests.misbehaving:healthy"))
SMALL = "--epochs 2 --widths 0.25 --weight-decays 5e-4 --poison-rates 0.1 --seeds 3 --attacks badnets --inline".split()
SMALL += ["--figures", "none"]


class Server:
    """A real MLflow server on this machine."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = f"sqlite:///{self.folder}/server.db"
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(command, env=env, **quiet)  # type: ignore[call-overload]
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health").close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("the server does not answer")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.long
def test_a_server_that_is_away_at_the_start_in_the_middle_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused at the start; then gone from the second of three trials on, until `raybd send`."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = Server(tmp_path)
    args = [*SMALL, "--noise", "0", "--metrics", "smoothness", "--tracking-uri", server.uri, "--results", str(tmp_path)]
    assert main(PRESETS, summarise, args) == 2
    assert f"the tracking store {server.uri} cannot be used" in capsys.readouterr().err
    assert list(tmp_path.glob("ib/trials/*")) == []

    server.start()
    real, ran = attempt.run_checked, []

    def going(*given: object) -> object:
        ran.append(1)
        if len(ran) == 2:
            server.stop()
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(attempt, "run_checked", going)
        assert main(PRESETS, summarise, args) == 1
    said = capsys.readouterr()
    assert "3 trials finished, 0 had finished before" in said.out
    assert "2 trials are on disk but not in the tracking store: upload them by raybd send 'ib'" in said.out
    assert "the tracking store still cannot be reached" in said.out
    assert "the parent run of the sweep stays open" in said.err

    server.start()
    try:
        assert raybd(["send", "ib", "--tracking-uri", server.uri, "--results", str(tmp_path)]) == 0
        runs = load_runs("ib", server.uri)
        assert list(runs["status"]) == ["FINISHED"] * 3
        assert runs["tags.raybd.key"].nunique() == 3
        assert main(PRESETS, summarise, args) == 0
        assert "3 trials have finished, 0 to run" in capsys.readouterr().out
    finally:
        server.stop()


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a fifth of a second for a lock, where raybd waits a minute and MLflow itself 20 seconds."""
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 0.2)
    real = sqlalchemy.sql.text
    monkeypatch.setattr(sqlalchemy.sql, "text", lambda query: real(query.replace("timeout = 20000", "timeout = 200")))


def test_a_database_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment: it is waited for. For longer than anybody waits: the trial stays on disk, and is sent later."""
    a = plan_sweep("s", [CONFIG, replace(CONFIG, seed=1)], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    holder = sqlite3.connect(tmp_path / "m.db", check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.5, holder.rollback).start()
    first = run_inline(replace(a, todo=a.todo[:1]))
    assert [o.uploaded for o in first.outcomes] == [True]

    impatient(monkeypatch)
    holder.execute("BEGIN IMMEDIATE")
    second = run_inline(replace(a, todo=a.todo[1:]))
    assert [(o.status, o.uploaded) for o in second.outcomes] == [(FINISHED, False)]
    assert "1 trials are on disk but not in the tracking store" in second.text
    with pytest.raises(InputError, match="the tracking store"):
        plan_sweep("s", [CONFIG], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    holder.rollback()
    holder.close()
    again = plan_sweep("s", [CONFIG, replace(CONFIG, seed=1)], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    assert (again.finished_before, again.todo) == (2, [])
    assert list(load_runs("s", a.store.address.uri)["status"]) == ["FINISHED"] * 2


def test_a_clock_that_is_set_back_an_hour_in_mid_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations do not come from it, no run ends before it began, and the summary of the later round is shown."""
    real, behind = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() - behind[0])
    a = plan_sweep("s", [CONFIG], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    a.store.begin({}, ["k"])
    a.store.end("FINISHED", {"trials": 1.0}, "", [])
    train = attempt.run_checked

    def trained(*given: object) -> object:
        behind[0] = 3600.0
        return train(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "run_checked", trained)
    result = run_inline(a)
    assert 0 < result.outcomes[0].seconds < 600
    assert 0 <= result.busy <= 1
    client = a.store.client
    orphan = client.create_run(a.store.address.experiment_id, round(1000 * real()), {"raybd.kind": "trial"})
    a.store.end("FINISHED", {"trials": 2.0}, "", [])
    assert client.get_run(a.store.address.parent_id).data.metrics["trials"] == 2.0
    for run in client.search_runs([a.store.address.experiment_id]):
        assert run.info.end_time >= run.info.start_time
    assert client.get_run(orphan.info.run_id).info.status == "KILLED"


def test_a_trial_that_failed_first_counts_once_on_the_map_and_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first run stays beside its second in the store, where people can see it."""
    from analysis import DefendedRegionMap

    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(tmp_path))
    config = replace(CONFIG, model=ModelConfig(name="tests.misbehaving:raises_once"))
    a = plan_sweep("s", [config], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    result = run_inline(a)
    assert (len(result.outcomes), result.exit_status) == (1, 0)
    assert "1 trials finished, 0 had finished before" in result.text
    assert "first error: RuntimeError: planted failure" in result.text
    assert sorted(load_runs("s", a.store.address.uri)["status"]) == ["FAILED", "FINISHED"]
    [cell] = DefendedRegionMap.from_mlflow("s", tracking_uri=a.store.address.uri).cells
    assert (len(cell.seeds), cell.failures) == (1, 0)


def emptied(folder: Path) -> None:
    """A store made anew at the same address: the experiment's number is the same, its runs are gone."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%run_uuid%'"
        for (table,) in database.execute(tables).fetchall():
            database.execute(f"DELETE FROM {table}")


def test_a_store_that_is_made_anew_gets_what_is_on_disk_and_nothing_runs_again(tmp_path: Path) -> None:
    uri, configs = f"sqlite:///{tmp_path}/mlflow.db", [replace(CONFIG, seed=seed) for seed in (0, 1)]
    run_inline(plan_sweep("s", configs, tmp_path / "r", uri))
    before = load_runs("s", uri)
    emptied(tmp_path)
    again = plan_sweep("s", configs, tmp_path / "r", uri)
    assert (again.todo, again.finished_before) == ([], 2)
    after = load_runs("s", uri)
    assert set(before["run_id"]).isdisjoint(after["run_id"])
    numbers = ["tags.raybd.key", "metrics.accuracy/clean", "metrics.loss/train", "params.seed"]
    assert after[numbers].sort_values("params.seed").to_dict("list") == (
        before[numbers].sort_values("params.seed").to_dict("list")
    )


def test_a_worker_that_finished_a_trial_long_ago_brings_it_to_the_store(tmp_path: Path) -> None:
    """Its disk is its own: the driver cannot see that the store lacks what lies there."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_inline(plan_sweep("s", [CONFIG], tmp_path / "worker", uri))
    emptied(tmp_path)
    driving = plan_sweep("s", [CONFIG], tmp_path / "driver", uri)
    [config] = driving.todo
    setup = TrialSetup("s", SweepFolder.of(tmp_path / "worker", "s"), driving.store.address, figures="none")
    for _ in range(2):
        outcome = attempt.run_attempt(config, driving.data["digits"], setup)
        assert (outcome.status, outcome.uploaded) == (FINISHED, True)
        assert list(load_runs("s", uri)["status"]) == [FINISHED]


def test_a_run_that_somebody_deletes_is_run_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_inline(a := plan_sweep("s", [CONFIG], tmp_path / "r", uri))
    [first] = load_runs("s", uri)["run_id"]
    a.store.client.delete_run(first)
    setup = TrialSetup("s", a.folder, a.store.address, figures="none")
    attempt.run_attempt(a.todo[0], a.data["digits"], setup)  # by a worker on whose disk it lies
    [second] = load_runs("s", uri)["run_id"]
    a.store.client.delete_run(second)
    again = plan_sweep("s", [CONFIG], tmp_path / "r", uri)
    assert len(again.todo) == 1
    assert run_inline(again).exit_status == 0
    assert [first, second] != list(load_runs("s", uri)["run_id"]) != []


def test_a_trial_whose_end_only_the_store_knows_has_finished(tmp_path: Path) -> None:
    """Its worker's machine went off after it had sent everything, before it could tell Tune; its disk went with it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    a = plan_sweep("s", [CONFIG, replace(CONFIG, seed=1)], tmp_path / "driver", uri)
    queue = TrialQueue(ListProposer(a.todo), a.finished)
    assert [getattr(queue.next(), "seed", None) for _ in range(2)] == [0, 1]
    run_inline(plan_sweep("s", [CONFIG], tmp_path / "worker", uri))
    queue.requeue()
    again = queue.next()
    assert isinstance(again, TrialConfig)
    assert again.seed == 1
    assert queue.outcomes[a.todo[0].key].finished
    assert queue.next() is Signal.WAIT


def another_store(path: Path) -> None:
    """Of a stranger, whose experiments have the numbers of ours."""
    uri = f"sqlite:///{path.parent}/other.db"
    plan_sweep("stranger", [CONFIG], path.parent / "other", uri)
    sqlite.checkpoint(uri)


def deleted(path: Path) -> None:
    """Without its write-ahead log, which a new store must not take for its own."""
    path.unlink()


def replaced(path: Path) -> None:
    another_store(path)
    for left in ("-wal", "-shm"):
        path.with_name(path.name + left).unlink(missing_ok=True)
    (path.parent / "other.db").replace(path)


def overwritten(path: Path) -> None:
    another_store(path)
    with sqlite3.connect(path.parent / "other.db") as other, sqlite3.connect(path) as own:
        other.backup(own)


def forgotten(path: Path) -> None:
    MlflowClient(f"sqlite:///{path}").delete_experiment("1")


@pytest.mark.long
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (deleted, "has been deleted or moved"),
        (replaced, "has been replaced by another"),
        (overwritten, "has been replaced by another"),
        (forgotten, "has lost the sweep: its experiment was deleted"),
    ],
)
def test_a_store_that_goes_in_mid_sweep_ends_it_with_a_word_and_loses_no_trial(
    act: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, ran, real = tmp_path / "m.db", list[str](), attempt.run_checked

    def run(config: TrialConfig, *rest: Any) -> Any:
        ran.append(config.key)
        if len(ran) == 2:
            act(store)
        return real(config, *rest)

    monkeypatch.setattr(attempt, "run_checked", run)
    uri = f"sqlite:///{store}"
    args = [*SMALL, "--noise", "0", "--metrics", "smoothness", "--tracking-uri", uri, "--results", str(tmp_path)]
    assert main(PRESETS, summarise, args) == 1
    told = capsys.readouterr()
    assert f"the tracking store {uri} {said} while the sweep ran: its trials are kept in {tmp_path}/ib" in told.out
    assert "3 trials finished" in told.out
    if act is forgotten:
        MlflowClient(uri).restore_experiment("1")
    elif act is not deleted:
        if act is overwritten:
            sqlite.checkpoint(uri)
        assert run_names(store) == ["sweep stranger"]  # nothing was written to the stranger's store
        return
    script = Path(__file__).parent.parent / "sweeps" / "ib.py"  # a process of its own, as MLflow keeps files open
    again = subprocess.run([sys.executable, str(script), *args], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 trials have finished, 0 to run" in again.stdout


def run_names(store: Path) -> list[str]:
    """Of a copy, as this process has files open that were there before."""
    shutil.copy(store, store.with_name("copy.db"))
    with sqlite3.connect(store.with_name("copy.db")) as copied:
        return [name for (name,) in copied.execute("SELECT name FROM runs")]
