"""The claims of docs/security.md that can be tested on one machine."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from raybd.cli import main as command
from raybd.command_line.command import main
from raybd.data import load
from raybd.errors import InputError, public
from raybd.tracking import uploads
from raybd.tracking.store import Address
from raybd.training import Checkpoint
from raybd.trials.records import FINISHED, Record, SweepFolder, check_name
from raybd.utils.summary_folder import SummaryFolder
from sweeps.ib import PRESETS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()


# --- files of others -----------------------------------------------------------------


class Payload:
    """What a crafted file would run on being unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_the_payload_of_these_tests_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["x_train", "y_test", "classes"])
def test_an_npz_with_pickled_objects_is_refused_and_not_run(key: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x_train": np.zeros((20, 8, 8), np.uint8),
        "y_train": np.arange(20) % 2,
        "x_test": np.zeros((20, 8, 8), np.uint8),
        "y_test": np.arange(20) % 2,
        "classes": np.array(["a", "b"]),
    }
    np.savez(tmp_path / "fine.npz", **arrays)
    assert load(f"npz:{tmp_path}/fine.npz").classes == ("a", "b")
    arrays[key] = np.array([Payload(tmp_path / "ran")] * len(arrays[key]), dtype=object)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=f"{key} cannot be read .* pickled objects are refused"):
        load(f"npz:{tmp_path}/bad.npz")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_is_called_npz_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError, match="not a .npz file"):
        load(f"npz:{tmp_path}/bad.npz")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_with_objects_is_not_run(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "model": Payload(tmp_path / "ran")}, tmp_path / "checkpoint.pt")
    assert Checkpoint(tmp_path / "checkpoint.pt").load() is None
    assert not (tmp_path / "ran").exists()


# --- names ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "..", ".", "a\\b", "~", "", "a\x00b", "a\nb", "x/"])
def test_names_that_leave_the_results_folder_are_refused(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "results"
    assert check_name(name)
    with pytest.raises(InputError, match="cannot name a sweep"):
        SweepFolder.of(inside, name)
    assert not list(tmp_path.iterdir())


def test_the_commands_refuse_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    assert main(PRESETS, unused, ["--name", "../elsewhere", "--results", str(tmp_path / "results"), "--inline"]) == 2
    assert command(["send", "../elsewhere", "--results", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err.count("cannot name a sweep") == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def unused(name: str, uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
    raise AssertionError("no sweep ran")


# --- passwords -----------------------------------------------------------------------

PASSWORD = "correct-horse"
URI = f"http://admin:{PASSWORD}@127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URI, "http://***@127.0.0.1:1"),
        ("postgresql://me:p%40ss@db/raybd", "postgresql://***@db/raybd"),
        ("at http://me:odd@pass@host:5000/api and http://host/a@b", "at http://***@host:5000/api and http://host/a@b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000"),
    ],
)
def test_what_is_shown_of_a_uri(text: str, shown: str) -> None:
    assert public(text) == shown
    assert InputError(text).problems == [shown]


def test_a_store_that_is_away_is_told_of_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    args = ["--tracking-uri", URI, "--results", str(tmp_path), "--inline", "--seeds", "1"]
    assert main(PRESETS, unused, args) == 2
    assert command(["runs", "ib", "--tracking-uri", URI]) == 2
    assert command(["rerun", "0" * 32, "--tracking-uri", URI]) == 2
    said = "".join(capsys.readouterr())
    assert said.count("http://***@127.0.0.1:1") >= 3
    assert PASSWORD not in said


def test_a_store_that_goes_away_is_logged_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(uploads, "FLUSH_SECONDS", 0.0)
    folder = SweepFolder.of(tmp_path, "x").trial("key")
    folder.start(0)
    folder.append(1, {"loss": 1.0})
    record = Record(key="key", label="label", config={}, params={}, status=FINISHED)
    run = uploads.TrialRun(Address(URI, "1", "2", "3"), folder, "label", {}, 0)
    run.log()
    assert not run.finish(record)
    assert caplog.text.count("http://***@127.0.0.1:1") >= 3
    assert PASSWORD not in caplog.text


def test_a_sweep_keeps_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole sweep with a URI that has one; what answers under it is a file."""
    monkeypatch.chdir(tmp_path)
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow, "MlflowClient", lambda tracking_uri: store)
    preset = PRESETS["quick"].replace(attacks=("badnets",), metrics=("stealth",), noise=0.0, seeds=1, epochs=(1,))
    args = "--inline --poison-rates 0.05 --weight-decays 5e-4 --widths 0.5 --name kept".split()

    def summarise(name: str, uri: str, folder: SummaryFolder) -> tuple[str, list[Path]]:
        assert uri == URI
        raise RuntimeError(f"no map of {uri}")

    assert main({"quick": preset}, summarise, [*args, "--tracking-uri", URI]) == 0
    said = "".join(capsys.readouterr())
    assert "no map of http://***@127.0.0.1:1" in said
    assert PASSWORD not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    [options] = tmp_path.rglob("options/*.json")
    assert json.loads(options.read_text())["tracking_uri"] == "http://***@127.0.0.1:1"
    assert list(tmp_path.rglob("sent.json"))


# --- doors ---------------------------------------------------------------------------


def test_a_local_ray_has_no_dashboard_and_leaves_its_token_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from raybd.execution import ray_cluster
    from raybd.execution.ray_choice import LOOPBACK

    token = tmp_path / ".ray" / "auth_token"
    given: dict[str, Any] = {}

    def init(**options: Any) -> None:
        given.update(options)
        token.parent.mkdir()
        token.write_text("secret")
        token.chmod(0o644)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(LOOPBACK, "")
    assert ray_cluster.connect("local", 0) == 2
    assert given["address"] == "local"
    assert given["include_dashboard"] is False
    folder = Path(given["_temp_dir"])
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert len(str(folder.parent)) <= 40
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.ray
def test_a_local_ray_refuses_who_has_no_token(tmp_path: Path) -> None:
    """Whoever reaches Ray's ports on loopback is kept out by its token, and nobody reaches another: all are there."""
    code = """
import os, subprocess, sys
from tests.listening import listening
from raybd.execution import ray_cluster
ray_cluster.connect("local", 0)
import ray
address = ray.get_runtime_context().gcs_address
print("LISTENS", *sorted(listening()))
ask = "import sys; from ray._raylet import GcsClient; GcsClient(sys.argv[1]).internal_kv_get(b'', None, 20)"
def say(**environment):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | environment
    done = subprocess.run([sys.executable, "-c", ask, address], env=variables, capture_output=True, text=True)
    print("IN" if done.returncode == 0 else "REFUSED" if "authent" in done.stderr.lower() else done.stderr)
say(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
say(RAY_AUTH_MODE="disabled")
say(RAY_AUTH_MODE="token")
"""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("RAY_A")}
    variables["HOME"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["REFUSED", "REFUSED", "IN"], done.stdout + done.stderr
    [listens] = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(listens) >= 4  # of the head, of the node two, of the driver
    assert {door.rpartition(":")[0] for door in listens} == {"127.0.0.1"}, listens


# --- the page ------------------------------------------------------------------------


def test_the_page_names_tests_that_exist_and_says_what_runs_code() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE)
    here = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 8
    assert [name for name in named if f"def {name}(" not in here] == []
    assert "`module:function`" in PAGE
    options = (ROOT / "raybd" / "command_line" / "groups.py").read_text()
    assert "module:function (runs that code)" in options
