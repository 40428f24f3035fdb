"""Stores and folders written by the first release, kept as a fixture: they are read, mapped, rerun and resumed."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from analysis import DefendedRegionMap
from raybd.command_line.command import main
from raybd.tracking.reading import load_record, load_runs
from raybd.tracking.status import status
from raybd.trials.config import TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.rerun import rerun
from sweeps import learning_curves
from sweeps.ib import PRESETS, summarise

# What the sweeps of the fixture were asked for
NETWORKS = (
    "--seeds 1 --poison-rates 0 0.05 --attacks badnets --widths 0.5 --weight-decays 5e-4 --epochs 2 --noise 0.4 "
    "--metrics"
)
CONVEX = "--seeds 1 --poison-rates 0.1 --pairs 7-1 --models svm_rbf --Cs-rbf 1 --gammas 0.05 --betas 0 1"
CURVES = ["first_curves", "--train-images", "100"]
KEYS = {"first": {"7e4dac1bb5a84076", "c2f0a78d763433c8"}, "first_curves": {"6d31702288fdca31", "a130ca0a953b60b9"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `store.db`, the artifacts of its runs and the results of two sweeps."""
    made = tmp_path_factory.mktemp("first")
    shutil.unpack_archive(Path(__file__).parent / "fixtures" / "first_release.tar.gz", made, filter="data")
    for path in [*made.rglob("*.json"), made / "store.sql"]:
        path.write_text(path.read_text().replace("@ROOT@", str(made)))
    with sqlite3.connect(made / "store.db") as store:
        store.executescript((made / "store.sql").read_text())
    return made


@pytest.fixture(scope="module")
def uri(root: Path) -> str:
    return f"sqlite:///{root}/store.db"


@pytest.mark.parametrize("name", KEYS)
def test_runs_are_loaded_with_the_keys_of_their_configs(name: str, uri: str) -> None:
    runs = load_runs(name, uri)
    trials = runs[runs["tags.raybd.kind"] == "trial"]
    assert set(trials["tags.raybd.key"]) == KEYS[name]
    for run_id, key in zip(trials["run_id"], trials["tags.raybd.key"], strict=True):
        record = load_record(run_id, uri)
        assert record.key_format == 1
        assert TrialConfig.from_dict(record.config).key == record.key == key
        assert record.params == TrialConfig.from_dict(record.config).params


@pytest.mark.parametrize("name", KEYS)
def test_folders_are_read(name: str, root: Path) -> None:
    for key in KEYS[name]:
        folder = SweepFolder(root / "results" / name).trial(key)
        record = folder.read()
        assert record is not None
        assert (record.key, record.status) == (key, "FINISHED")
        assert [line["epoch"] for line in folder.history()] == ([1, 2] if name == "first" else [1])
        assert folder.history()[-1]["metrics"].keys() <= record.metrics.keys()


def test_the_map_holds_the_first_trials(uri: str) -> None:
    found = DefendedRegionMap.from_mlflow("first", tracking_uri=uri)
    table = found.to_frame()
    assert sorted(table["poison_rate"].astype(float)) == [0.0, 0.05]
    poisoned = table[table["poison_rate"].astype(float) > 0].iloc[0]
    assert poisoned["attack_success"] == pytest.approx(0.804, abs=0.001)


def test_the_status_of_the_first_sweep(uri: str) -> None:
    found = status("first", uri)
    assert (found.planned, found.finished, found.failed, found.left, found.driver) == (2, 2, 0, 0, "ended")


@pytest.mark.parametrize("name", KEYS)
def test_a_rerun_gives_the_first_numbers(name: str, uri: str) -> None:
    """To a few images of 500: another processor rounds otherwise, and so may another version of a library."""
    for run_id in load_runs(name, uri).query("`tags.raybd.kind` == 'trial'")["run_id"]:
        found = rerun(load_record(run_id, uri))
        assert found.now.keys() == found.logged.keys()
        assert found.now == pytest.approx(found.logged, abs=0.02, rel=1e-3)


@pytest.mark.parametrize("results", ["results", "elsewhere"])
def test_the_same_sweep_finds_all_its_trials_finished(
    results: str, root: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--inline", "--tracking-uri", uri, "--results", str(root / results)]
    assert main(PRESETS, summarise, [*NETWORKS.split(), "--name", "first", *where]) == 0
    assert "first: 2 trials have finished, 0 to run" in capsys.readouterr().out
    assert learning_curves.run([*CONVEX.split(), "--name", *CURVES, *where]) == 0
    assert "first_curves: 2 trials have finished, 0 to run" in capsys.readouterr().out


def test_a_trial_of_other_settings_is_run(root: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--inline", "--tracking-uri", uri, "--results", str(root / "results"), "--name", "first"]
    other = NETWORKS.replace("0 0.05", "0 0.06")
    assert main(PRESETS, summarise, [*other.split(), *where]) == 0
    assert "first: 1 trials have finished, 1 to run" in capsys.readouterr().out
