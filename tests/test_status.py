"""`raybd status`: on a store made by hand, where every kind of trial is, and after a real sweep."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raybd.cli import main as raybd
from raybd.command_line.command import main
from raybd.tracking.runs import ALIVE, DRIVER
from raybd.tracking.status import status
from raybd.tracking.store import Store
from raybd.utils.process_name import ProcessName, _born
from sweeps.ib import PRESETS, summarise


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Seven trials planned: one finished at its second try, one failed twice, one cut off, one runs, three are left.

    One more finished under this name long ago, with other axes.
    """
    now = int(1000 * time.time())
    made = Store.open("s", f"sqlite:///{tmp_path_factory.mktemp('store')}/m.db")
    made.begin({}, list("abcdefg"))
    for key, ends in (
        ("old", ("FINISHED",)),
        ("a", ("FAILED", "FINISHED")),
        ("b", ("FAILED", "FAILED")),
        ("c", ("KILLED",)),
        ("d", ("",)),
    ):
        for number, end in enumerate(ends):
            started = now - 500_000 + number
            tags = {"raybd.kind": "trial", "raybd.key": key}
            run = made.client.create_run(made.address.experiment_id, started, tags, run_name=f"trial {key}")
            made.client.log_metric(run.info.run_id, "loss/train", 1.0, now - 60_000, step=1)
            if end:
                made.client.set_terminated(run.info.run_id, end)
    return made


def test_every_trial_is_counted_once(store: Store) -> None:
    found = status("s", store.address.uri)
    assert (found.planned, found.finished, found.failed, found.left) == (7, 1, 1, 4)
    [running] = found.running
    assert running.label == "trial d"
    assert 60 <= running.silent < 200  # by its newest metric, not by its start
    assert str(found).startswith("s: 1 of 7 trials finished, 1 failed, 1 running, 4 left\ndriver: alive, last seen ")


@pytest.mark.parametrize(
    ("state", "age", "said"),
    [("RUNNING", 5, "alive"), ("RUNNING", 21, "silent"), ("FAILED", 1000, "ended"), ("RUNNING", -5000, "alive")],
)
def test_the_driver(store: Store, state: str, age: int, said: str) -> None:
    """The last one's clock is more than an hour ahead of ours."""
    store.client.update_run(store.address.parent_id, status=state)
    store.client.set_tag(store.address.parent_id, ALIVE, int(1000 * (time.time() - age)))
    found = status("s", store.address.uri)
    assert found.driver.startswith(said)
    assert found.driver_seen == pytest.approx(max(age, 0), abs=20)


def test_a_driver_of_this_machine_is_known_to_be_dead_at_once(store: Store) -> None:
    """Its last heartbeat is fresh; its number may be another process's by now."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        named = replace(own(), pid=other.pid, born=_born(other.pid))
        store.client.update_run(store.address.parent_id, status="RUNNING")
        for process, said in (
            (named, "alive"),
            (replace(named, born="1"), "dead"),
            (replace(named, place=""), "alive"),
        ):
            store.client.set_tag(store.address.parent_id, DRIVER, str(process))
            store.heartbeat()
            assert status("s", store.address.uri).driver.startswith(said)
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie
        assert named.dead
    assert named.dead
    store.client.set_tag(store.address.parent_id, DRIVER, str(own()))


def own() -> ProcessName:
    found = ProcessName.own()
    assert found is not None
    return found


def test_a_text_that_names_no_process() -> None:
    assert [ProcessName.parse(text) for text in ("", "{}", "[]", "3", '{"pid": 1}')] == [None] * 5
    assert ProcessName.parse(str(own())) == own()
    assert not own().dead


def test_while_trials_are_searched_all_are_counted_and_none_is_left(store: Store) -> None:
    store.begin({}, None)
    found = status("s", store.address.uri)
    assert (found.planned, found.finished, found.failed, found.left, found.driver) == (None, 2, 1, None, "alive")


def test_a_store_that_no_driver_has_written_to(tmp_path: Path) -> None:
    made = Store.open("s", f"sqlite:///{tmp_path}/m.db")
    found = status("s", made.address.uri)
    assert (found.planned, found.left, found.driver, found.driver_seen) == (None, None, "none", None)
    assert "0 of an unknown number of trials finished" in str(found)


def test_the_command_after_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--tracking-uri", f"sqlite:///{tmp_path}/m.db"]
    small = "--epochs 1 --widths 0.25 --weight-decays 5e-4 --poison-rates 0 0.1 --seeds 1 --attacks badnets --inline"
    small += " --figures none"
    args = [*small.split(), *where, "--results", str(tmp_path), "--noise", "0", "--metrics", "smoothness"]
    assert main(PRESETS, summarise, args) == 0
    capsys.readouterr()
    assert raybd(["status", "ib", *where, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said.pop("driver_seen") < 100
    assert said == {
        "name": "ib",
        "planned": 2,
        "finished": 2,
        "failed": 0,
        "stopped": 0,
        "running": [],
        "left": 0,
        "driver": "ended",
    }
    assert raybd(["status", "ib", *where]) == 0
    assert "2 of 2 trials finished, 0 failed, 0 running, 0 left\ndriver: ended" in capsys.readouterr().out
    assert raybd(["status", "other", *where]) == 2
    assert "no experiment other" in capsys.readouterr().err
