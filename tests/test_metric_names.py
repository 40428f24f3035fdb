"""Headline metrics: what is logged to MLflow, what is in a trial's table, and that nothing is lost between them."""

import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.metrics import METRICS, Metric
from raybd.tracking import load_histories, load_runs
from raybd.tracking.metric_table import format_table, last_values
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.types import MetricContext
from raybd.utils.metric_names import HEADLINE, MOST_OF_OTHERS, MOST_PER_PATTERN, TABLE, headline
from tests.sweeping import run_inline

HISTORY = [
    {"epoch": 1, "time": 1, "metrics": {"loss/train": 0.5, "mi/xt/a": 1.0}},
    {"epoch": 3, "time": 2, "metrics": {"loss/train": 0.1, "curve/beta50": float("inf")}},
]


def test_the_table_by_hand() -> None:
    assert format_table(HISTORY) == "metric,epoch 1,epoch 3\nloss/train,0.5,0.1\nmi/xt/a,1.0,\ncurve/beta50,,inf\n"
    assert last_values(format_table(HISTORY)) == {"loss/train": 0.1, "curve/beta50": float("inf")}


def test_what_only_an_earlier_probe_could_measure_is_not_the_last_value() -> None:
    """A signature of epoch 1 that cannot be told at epoch 8: absent. The loss is that of epoch 9, which is no probe."""
    first, second = {"accuracy/clean": 0.5, "mi/signature": -0.3, "loss/train": 2.0}, {"accuracy/clean": 0.9}
    lines = {1: first, 8: second | {"loss/train": 1.0}, 9: {"loss/train": 0.5}}
    history = [{"epoch": epoch, "time": epoch, "metrics": metrics} for epoch, metrics in lines.items()]
    assert last_values(format_table(history)) == {"accuracy/clean": 0.9, "loss/train": 0.5}


@dataclass(frozen=True, kw_only=True)
class OnlyFirst(Metric):
    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        return {"mine/early": 1.0} if context.epoch == 1 else {"mine/late": float(context.epoch)}


def test_mlflow_has_no_last_value_of_what_only_an_earlier_probe_could_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "only_first", OnlyFirst)
    config = TrialConfig(train=TrainConfig(epochs=2), metrics=(OnlyFirst(),))
    plan = plan_sweep("early", [config], tmp_path / "results", f"sqlite:///{tmp_path}/mlflow.db")
    assert run_inline(plan).exit_status == 0
    for all_metrics in (False, True):
        (run,) = load_runs("early", plan.store.address.uri, all_metrics).to_dict("records")
        assert math.isnan(run["metrics.mine/early"])
        assert run["metrics.mine/late"] == 2.0


def test_numbers_survive_to_the_last_bit() -> None:
    history = [{"epoch": 1, "time": 1, "metrics": {"a": 0.1 + 0.2, "b": -1e-300, "c": 12345678.000000001}}]
    assert last_values(format_table(history)) == history[0]["metrics"]


def test_a_pattern_stands_for_a_few_names() -> None:
    names = [f"smoothness/clean/sigma_{s}" for s in range(9)] + ["smoothness/clean/median/sigma_1", "attack_success"]
    chosen = headline(names)
    assert chosen[0] == "attack_success"
    assert len(chosen) == 1 + MOST_PER_PATTERN
    assert "smoothness/clean/median/sigma_1" not in chosen


def test_numbers_of_a_metric_of_one_s_own_are_headlines() -> None:
    names = ["mine/a", "mine/b", "mi/xt/clean_3/upper", *(f"other/{i}" for i in range(20))]
    assert headline(names) == ["mine/a", "mine/b", *(f"other/{i}" for i in range(MOST_OF_OTHERS - 2))]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SweepPlan:
    """A trial with the metrics of the default sweep, and its twin, in a store."""
    folder = tmp_path_factory.mktemp("measured")
    metrics = tuple(METRICS[name]() for name in ("mutual_information", "stealthiness", "smoothness", "stealth"))
    model, train = ModelConfig(width=0.25, noise=0.4), TrainConfig(epochs=2)
    config = TrialConfig(train=train, model=model, poison_rate=0.1, metrics=metrics)
    plan = plan_sweep("headlines", [config], folder / "results", f"sqlite:///{folder}/mlflow.db")
    assert run_inline(plan).exit_status == 0
    return plan


def test_a_run_has_at_most_about_forty_metrics_and_a_table_of_all(measured: SweepPlan) -> None:
    runs = load_runs("headlines", measured.store.address.uri)
    logged = [name for name in runs if str(name).startswith("metrics.")]
    assert 20 <= len(logged) <= 42
    record = measured.folder.trial(runs["tags.raybd.key"][0]).read()
    assert record is not None
    assert len(record.metrics) > 150
    everything = load_runs("headlines", measured.store.address.uri, all_metrics=True).iloc[0]
    for name, value in record.metrics.items():
        assert everything[f"metrics.{name}"] == value or math.isnan(value)
    for name in logged:
        assert runs[name][0] == everything[name]


def test_histories_are_those_of_the_trials_folders(measured: SweepPlan) -> None:
    histories = load_histories("headlines", measured.store.address.uri)
    keys = load_runs("headlines", measured.store.address.uri).set_index("run_id")["tags.raybd.key"]
    assert histories["run_id"].unique().tolist() == keys.index.tolist()
    for run_id, found in histories.groupby("run_id"):
        lines = measured.folder.trial(keys[run_id]).history()
        assert found["epoch"].tolist() == [line["epoch"] for line in lines]
        for row, line in zip(found.to_dict("records"), lines, strict=True):
            own = {name: value for name, value in row.items() if name not in ("run_id", "epoch") and value == value}
            assert own == {name: value for name, value in line["metrics"].items() if value == value}


def test_a_lost_table_is_told(measured: SweepPlan, caplog: pytest.LogCaptureFixture) -> None:
    (run,) = measured.store.client.search_runs([measured.store.address.experiment_id], "tags.`raybd.kind` = 'trial'")
    path = Path(run.info.artifact_uri.removeprefix("file://")) / TABLE
    kept = path.with_suffix(".kept")
    for damage in (path.unlink, lambda: path.write_text("metric,epoch 1\na,not a number\n")):
        shutil.copy(path, kept)
        damage()
        with caplog.at_level(logging.WARNING):
            runs = load_runs("headlines", measured.store.address.uri, all_metrics=True)
            assert len(load_histories("headlines", measured.store.address.uri)["run_id"].unique()) < len(runs)
        shutil.move(kept, path)
        assert "1 trials have lost their table" in caplog.text
        assert "metrics.attack_success" in runs
        caplog.clear()


def test_the_headlines_of_the_default_sweep_are_few() -> None:
    measuring = ("accuracy", "mutual_information", "stealthiness", "smoothness", "stealth")
    names = [name for measure in measuring for name in HEADLINE[measure]]
    assert len(names) <= 40
