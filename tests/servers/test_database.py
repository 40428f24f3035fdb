"""A sweep in a PostgreSQL database, and in an MLflow server with a login, whose artifacts are in S3."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybd.cli import main as raybd
from raybd.command_line.command import main
from raybd.errors import InputError
from raybd.tracking import load_record, load_runs
from raybd.tracking.store import Store
from sweeps.ib import PRESETS, summarise
from tests.conftest import free_port
from tests.servers.postgres import Postgres, programs

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"),
]
ROOT = Path(__file__).parents[2]
AXES = "--attacks badnets --widths 0.25 --weight-decays 5e-4 --poison-rates 0 0.1 --seeds 1"
SMALL = f"--inline --epochs 1 {AXES} --noise 0 --metrics smoothness".split()
OPEN = "import sys; from raybd.tracking.store import Store; print(Store.open('twice', sys.argv[1]).address.parent_id)"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "data")
        server.start()
        yield server
        server.stop()


def sweep(uri: str, results: Path) -> int:
    args = [*SMALL, "--tracking-uri", uri, "--results", str(results)]
    return main(PRESETS, summarise, args)


def test_a_sweep_is_resumed_shown_renamed_exported_and_removed(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = postgres.create("whole")
    monkeypatch.setenv("RAYBD_ARTIFACTS", str(tmp_path / "artifacts"))
    assert sweep(uri, tmp_path) == 0
    assert len(list((tmp_path / "artifacts/ib").glob("*/artifacts/trial.json"))) == 2
    assert sweep(uri, tmp_path) == 0
    assert "2 trials have finished, 0 to run" in capsys.readouterr().out
    runs = load_runs("ib", uri)
    assert list(runs["status"]) == ["FINISHED"] * 2
    assert {load_record(run, uri).key for run in runs["run_id"]} == set(runs["tags.raybd.key"])

    at = ["--tracking-uri", uri]
    for command in (["status", "ib"], ["list"], ["map", "ib", "show"], ["runs", "ib"]):
        assert raybd([*command, *at]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "2 of 2" in said
    assert raybd(["export", "ib", "--out", str(tmp_path / "copy"), "--results", str(tmp_path), *at]) == 0
    assert len(load_runs("ib", f"sqlite:///{tmp_path}/copy/mlflow.db")) == 2
    assert raybd(["mv", "ib", "other", "--yes", "--results", str(tmp_path), *at]) == 0
    assert len(load_runs("other", uri)) == 2
    assert raybd(["rm", "other", "--yes", "--results", str(tmp_path), *at]) == 0
    with pytest.raises(InputError, match="no experiment other"):
        load_runs("other", uri)


def test_a_database_that_is_away_is_refused_at_once_and_costs_no_trial(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow would ask it ten times, and say so each time."""
    from raybd.execution import attempt

    uri = postgres.create("away")
    real = attempt.run_checked

    def going(*given: object) -> object:
        postgres.stop()
        monkeypatch.setattr(attempt, "run_checked", real)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "run_checked", going)
    try:
        assert sweep(uri, tmp_path) == 1
        assert "2 trials are on disk but not in the tracking store" in capsys.readouterr().out
        assert sweep(uri, tmp_path) == 2
        said = capsys.readouterr()
        assert "does not let raybd in" in said.err
        assert "retried" not in said.err + said.out
    finally:
        postgres.start()
    assert raybd(["send", "ib", "--tracking-uri", uri, "--results", str(tmp_path)]) == 0
    assert list(load_runs("ib", uri)["status"]) == ["FINISHED"] * 2


def test_sweeps_that_start_at_once_in_an_empty_database_share_it(postgres: Postgres) -> None:
    uri = postgres.create("fresh")
    command = [sys.executable, "-c", OPEN, uri]
    openings = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0] for process in openings]
    assert [process.returncode for process in openings] == [0, 0, 0], said
    assert Store.open("twice", uri).address.parent_id in {text.splitlines()[-1] for text in said}


def test_the_cluster_s_server_keeps_runs_in_a_database_and_artifacts_in_s3(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cluster/tracking.sh`: runs in PostgreSQL, artifacts in a bucket that only the server has the keys of."""
    import boto3
    from moto.server import ThreadedMotoServer

    endpoint = f"http://127.0.0.1:{(at := free_port())}"
    bucket = ThreadedMotoServer("127.0.0.1", port=at, verbose=False)
    bucket.start()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    home, port = tmp_path / "home", free_port()
    (home / ".raybd").mkdir(parents=True)
    (home / ".raybd/venv").symlink_to(sys.prefix)
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "MLFLOW_S3_ENDPOINT_URL": endpoint, **keys}
    variables |= {"RAYBD_DATABASE": postgres.create("server"), "RAYBD_ARTIFACTS": "s3://bucket/raybd"}
    variables |= {"RAYBD_TRACKING_PORT": str(port), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    try:
        s3.create_bucket(Bucket="bucket")
        subprocess.run(["bash", ROOT / "cluster/secrets.sh"], env=variables, check=True)
        subprocess.run(["bash", ROOT / "cluster/tracking.sh"], env=variables, check=True)
        uri = (home / ".raybd/tracking_uri").read_text().strip()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", (home / ".raybd/secrets/mlflow_password").read_text())
        assert sweep(uri, tmp_path) == 0
        runs = load_runs("ib", uri)
        assert list(runs["status"]) == ["FINISHED"] * 2
        assert {load_record(run, uri).key for run in runs["run_id"]} == set(runs["tags.raybd.key"])
        names = {entry["Key"].split("/")[-1] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]}
        assert {"trial.json", "metrics.csv", "per_sample.npz"} <= names
    finally:
        subprocess.run(["pkill", "-KILL", "-f", f"mlflow.*{port}"], check=False)
        bucket.stop()
