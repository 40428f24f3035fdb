"""A store is known by what is in it: moved, copied, or under another spelling, it is the same one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raybd.errors import InputError
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.tracking import load_record, load_runs
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


def test_a_store_reached_by_a_link_is_the_same(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
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
