"""Sweeps on a real local Ray and in this process: same records, nothing lost, nothing twice."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from raybd.attacks import BadNets, Blended
from raybd.errors import InputError
from raybd.execution.attempt import run_attempt
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.progress import format_duration
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.execution.setup import TrialSetup
from raybd.metrics.mutual_information import MutualInformation
from raybd.tracking import load_runs
from raybd.tracking.metric_table import last_values
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FINISHED, SweepFolder
from raybd.trials.validate import prepare
from raybd.types import Data
from raybd.utils.metric_names import TABLE, headline
from tests.sweeping import run_inline, run_on_ray

CONFIG = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(width=0.25), poison_rate=0.1)
ONE = Resources(cpus=1, gpus=0)


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(tmp_path))
    return tmp_path


@pytest.fixture
def local_ray(flags: Path) -> Iterator[None]:
    """A Ray of this test's own: its workers must know the flags."""
    import ray

    yield
    ray.shutdown()


def made(configs: list[TrialConfig], folder: Path, name: str = "s") -> SweepPlan:
    return plan_sweep(name, configs, folder / "results", f"sqlite:///{folder}/mlflow.db")


def own(function: str, seed: int = 0) -> TrialConfig:
    return replace(CONFIG, model=ModelConfig(name=f"tests.misbehaving:{function}"), seed=seed)


def children(a: SweepPlan) -> list[dict[str, str]]:
    runs = load_runs(a.name, a.store.address.uri)
    return [{"key": r["tags.raybd.key"], "status": r["status"]} for _, r in runs.iterrows()]


@pytest.mark.long
@pytest.mark.ray
def test_inline_and_ray_give_the_same_numbers(tmp_path: Path, local_ray: None) -> None:
    configs = [replace(CONFIG, attack=attack, seed=seed) for attack in (BadNets(), Blended()) for seed in (0, 1)]
    metrics = []
    for folder, run in (("a", lambda p: run_inline(p, p.figures)), ("b", lambda p: run_on_ray(p, ONE, "local"))):
        (tmp_path / folder).mkdir()
        a = replace(made(configs, tmp_path / folder), figures={"a": "first_seed", "b": "none"}[folder])
        result = run(a)  # type: ignore[operator]
        assert result.exit_status == 0
        drawn = {
            config.seed for config in a.todo if (a.folder.trial(config.key).path / "figures/examples.png").exists()
        }
        assert drawn == ({0} if folder == "a" else set())  # and the numbers are the same
        assert {o.status for o in result.outcomes} == {FINISHED}
        records = [a.folder.trial(config.key).read() for config in a.todo]
        metrics.append(
            {r.key: {k: v for k, v in r.metrics.items() if k != "seconds/trial"} for r in records if r is not None}
        )
        runs = load_runs("s", a.store.address.uri)
        assert sorted(runs["tags.raybd.key"]) == sorted(config.key for config in a.todo)
        assert set(runs["status"]) == {"FINISHED"}
        assert not (a.folder.path / "tune").exists()
    assert len(metrics[0]) == 4
    assert metrics[0] == metrics[1]


def test_a_failure_is_tried_once_more(tmp_path: Path, flags: Path) -> None:
    result = run_inline(made([own("raises_once")], tmp_path))
    assert [o.status for o in result.outcomes] == [FINISHED]
    assert result.exit_status == 0


def test_what_would_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    a = made([own("diverges")], tmp_path)
    result = run_inline(a)
    assert result.outcomes[0].permanent
    assert "DivergedError: the training loss is nan" in result.outcomes[0].error
    assert [c["status"] for c in children(a)] == ["FAILED"]


def test_a_network_that_predicts_one_class_has_finished_and_the_summary_says_so(tmp_path: Path) -> None:
    train_config = TrainConfig(epochs=2, weight_decay=30.0, learning_rate=0.05, schedule="constant", momentum=0.0)
    a = made([replace(CONFIG, train=train_config), replace(CONFIG, seed=1)], tmp_path)
    result = run_inline(a)
    assert sorted(c["status"] for c in children(a)) == ["FINISHED", "FINISHED"]
    assert result.exit_status == 0
    assert [o.note for o in result.outcomes].count("undertrained: one class predicted for every test image") == 1
    assert result.text.count("undertrained") == 1


def test_a_finished_sweep_has_nothing_to_run_and_new_cells_are_added(tmp_path: Path) -> None:
    assert run_inline(made([CONFIG], tmp_path)).exit_status == 0
    again = made([CONFIG], tmp_path)
    assert (again.todo, again.finished_before) == ([], 1)
    more = made([CONFIG, replace(CONFIG, seed=1)], tmp_path)
    assert ([c.seed for c in more.todo], more.finished_before) == ([1], 1)
    run_inline(more)
    assert sorted(c["status"] for c in children(more)) == ["FINISHED", "FINISHED"]


def test_the_same_trial_twice_in_a_list_runs_once(tmp_path: Path) -> None:
    assert len(made([CONFIG, CONFIG], tmp_path).todo) == 1


def test_what_mlflow_holds(tmp_path: Path, digits: Data) -> None:
    a = made([CONFIG], tmp_path)
    a.store.begin({"name": "s"}, ["k"])
    run_inline(a, figures="all")
    a.store.end("FINISHED", {"trials": 1.0}, "the table", [])
    client = MlflowClient(a.store.address.uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = {run.data.tags["raybd.kind"]: run for run in client.search_runs([experiment.experiment_id])}
    parent, child = runs["sweep"], runs["trial"]
    record = a.folder.trial(a.todo[0].key).read()
    assert record is not None

    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.metrics == {"trials": 1.0}
    assert parent.data.tags["mlflow.note.content"] == "the table"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["raybd.key"] == a.todo[0].key == record.key
    assert child.data.tags["raybd.data_fingerprint"] == digits.fingerprint
    assert {"raybd.version", "raybd.commit", "raybd.sweep", "raybd.device"} <= set(child.data.tags)
    assert child.data.params == {name: str(value) for name, value in a.todo[0].params.items()}
    assert child.data.metrics == pytest.approx({name: record.metrics[name] for name in headline(record.metrics)})
    assert last_values(Path(client.download_artifacts(child.info.run_id, TABLE)).read_text()) == record.metrics
    history = client.get_metric_history(child.info.run_id, "attack_success")
    assert [m.step for m in history] == [1, 2, 3]
    assert history[-1].value == record.metrics["attack_success"]

    artifacts = {f.path for f in client.list_artifacts(child.info.run_id)}
    assert artifacts == {"trial.json", "per_sample.npz", "figures", TABLE}
    pictures = {f.path for f in client.list_artifacts(child.info.run_id, "figures")}
    assert pictures == {"figures/examples.png", "figures/training.png"}
    table = np.load(client.download_artifacts(child.info.run_id, "per_sample.npz"))
    assert np.array_equal(table["true"], digits.test.y.numpy())
    hit = (table["triggered_prediction"] == table["wanted"])[table["measured"].astype(bool)]
    assert hit.mean() == record.metrics["attack_success"]
    assert int((table["train_roles"] == 1).sum()) == record.manifest["poison"]
    trial = json.loads(Path(client.download_artifacts(child.info.run_id, "trial.json")).read_text())
    assert TrialConfig.from_dict(trial["config"]) == a.todo[0]


def test_a_long_summary_is_whole_in_an_artifact(tmp_path: Path) -> None:
    a = made([CONFIG], tmp_path)
    note = "```\n" + "\n".join(f"line {number}" for number in range(2000)) + "\n```"
    a.store.end("FINISHED", {"trials": 0.0}, note, [])
    client, parent = a.store.client, a.store.address.parent_id
    shown = client.get_run(parent).data.tags["mlflow.note.content"]
    assert len(shown) < 8000
    assert "\n```\n\nThe rest is in the artifact `summary.md`." in shown
    assert shown.startswith("```\nline 0\nline 1\n")
    assert Path(client.download_artifacts(parent, "summary.md")).read_text() == note


def test_a_store_that_goes_away_loses_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = made([CONFIG, replace(CONFIG, seed=1)], tmp_path)
    with monkeypatch.context() as away:

        def refuse(uri: str) -> None:
            raise ConnectionError("no route to the store")

        away.setattr("raybd.tracking.uploads.connect", refuse)
        result = run_inline(a)
    assert result.exit_status == 1
    assert [o.uploaded for o in result.outcomes] == [False, False]
    assert "2 trials are on disk but not in the tracking store" in result.text
    assert children(a) == []

    from raybd.cli import main

    args = ["send", "s", "--tracking-uri", a.store.address.uri, "--results", str(tmp_path / "results")]
    assert main(args) == 0
    assert sorted(c["status"] for c in children(a)) == ["FINISHED", "FINISHED"]
    assert main(args) == 0  # nothing is sent twice
    assert len(children(a)) == 2
    assert made([CONFIG], tmp_path).todo == []


def test_planning_sends_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = made([CONFIG], tmp_path)
    with monkeypatch.context() as away:
        away.setattr("raybd.tracking.uploads.connect", lambda uri: 1 / 0)
        run_inline(a)
    again = made([CONFIG], tmp_path)
    assert (again.finished_before, again.todo) == (1, [])


def test_a_store_that_goes_away_in_mid_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the epochs are sent, then the store is gone, then it is back: every epoch is there once."""
    monkeypatch.setattr("raybd.tracking.uploads.FLUSH_SECONDS", 0.0)
    from raybd.tracking import uploads

    a, real, calls = made([CONFIG], tmp_path), uploads.connect, []

    def flaky(uri: str) -> MlflowClient:
        calls.append(uri)
        if 2 < len(calls) < 5:
            raise ConnectionError("gone")
        return real(uri)

    with monkeypatch.context() as away:
        away.setattr("raybd.tracking.uploads.connect", flaky)
        result = run_inline(a)
    assert len(calls) >= 3
    assert result.outcomes[0].status == FINISHED
    made([CONFIG], tmp_path)
    runs = load_runs("s", a.store.address.uri)
    assert list(runs["status"]) == ["FINISHED"]
    history = MlflowClient(a.store.address.uri).get_metric_history(runs["run_id"].iloc[0], "loss/train")
    assert [m.step for m in history] == [1, 2, 3]


def test_busy_share_by_hand() -> None:
    outcomes = [Outcome("a", "a", FINISHED, 3.0), Outcome("b", "b", FINISHED, 5.0)]
    result = SweepResult("s", 0, outcomes, 0, seconds=5.0, cores=2, errors=[])
    assert result.busy == pytest.approx(8 / 10)
    assert "80% of core seconds inside trials" in result.text
    assert replace(result, cpus=0.5).busy == pytest.approx(4 / 10)
    assert "(4.0 s / (2 x 5.0 s))" in replace(result, cpus=0.5).text


@pytest.mark.parametrize(("seconds", "said"), [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00")])
def test_clock(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_every_problem_of_every_config_at_once() -> None:
    bad = [replace(CONFIG, poison_rate=0.0001), replace(CONFIG, attack=BadNets(size=50))]
    with pytest.raises(InputError) as caught:
        prepare(bad)
    assert "poisons nobody" in str(caught.value)
    assert "50 pixels" in str(caught.value)


def test_outcomes_travel_as_plain_numbers() -> None:
    assert Outcome(**json.loads(json.dumps(asdict(Outcome("k", "l", FINISHED))))) == Outcome("k", "l", FINISHED)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_two_drivers_at_once_are_one_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybd.command_line.command import main
    from sweeps.ib import PRESETS, summarise

    args = ["--results", str(tmp_path), "--tracking-uri", f"sqlite:///{tmp_path}/m.db", "--inline", "--epochs", "1"]
    with SweepFolder.of(tmp_path, "ib").locked():
        assert main(PRESETS, summarise, args) == 2
    assert "another process is at work" in capsys.readouterr().err


def test_each_store_has_a_trial_once(tmp_path: Path) -> None:
    """Store A, then B, then A again: what one has is sent to the other, and never twice."""
    here, there = (f"sqlite:///{tmp_path}/{name}.db" for name in "ab")
    run_inline(plan_sweep("s", [CONFIG], tmp_path / "r", here))
    for uri in (there, here, there, here):
        assert plan_sweep("s", [CONFIG], tmp_path / "r", uri).todo == []
        assert len(load_runs("s", uri)) == 1


def test_a_run_that_was_deleted_does_not_block_the_sweep(tmp_path: Path) -> None:
    a = made([CONFIG], tmp_path)
    run_inline(a)
    folder, name = a.folder.trial(a.todo[0].key), a.store.address.identity
    folder.write_upload_state(name, folder.upload_state(name) | {"done": False})
    a.store.client.delete_run(folder.upload_state(name)["run_id"])
    assert made([CONFIG], tmp_path).finished_before == 1
    assert list(load_runs("s", a.store.address.uri)["status"]) == ["FINISHED"]


@pytest.mark.long
@pytest.mark.ray
def test_resources_that_no_node_has_are_refused(tmp_path: Path, local_ray: None) -> None:
    with pytest.raises(InputError, match="a trial with 999 CPUs and 0 GPUs fits no node"):
        run_on_ray(made([CONFIG], tmp_path), Resources(cpus=999, gpus=0), "local")


def test_a_killed_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The second attempt begins after the last saved epoch; its journal and its arrays have every epoch once."""

    looking = MutualInformation(samples=32, passes=4, classes=1)
    noisy = replace(CONFIG, model=replace(CONFIG.model, noise=0.4), metrics=(looking,))
    a = made([replace(noisy, train=TrainConfig(epochs=6))], tmp_path)
    setup = TrialSetup("s", a.folder, a.store.address, checkpoint_seconds=0.0, figures="none")
    data, folder = a.data["digits"], a.folder.trial(a.todo[0].key)

    def die() -> None:
        if len(folder.history()) == 3:
            raise KeyboardInterrupt  # as sudden as a worker's death: nothing is written

    with pytest.raises(KeyboardInterrupt):
        run_attempt(a.todo[0], data, setup, die)
    assert [line["epoch"] for line in folder.history()] == [1, 2, 3]
    before = (folder.path / "history.jsonl").read_text()
    assert run_attempt(a.todo[0], data, setup).status == FINISHED
    assert (folder.path / "history.jsonl").read_text().startswith(before)
    assert [line["epoch"] for line in folder.history()] == [1, 2, 3, 4, 5, 6]
    with np.load(folder.path / "arrays.npz") as arrays:
        assert {name for name in arrays if name.startswith("mi/map/")} == {f"mi/map/{n}" for n in (1, 2, 3, 4, 6)}
    assert not folder.checkpoint.exists()
    assert not folder.probes.exists()
