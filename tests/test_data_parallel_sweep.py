"""Trials by two workers through Ray Train, on two CPUs; trials that share a GPU, on a Ray that believes in one."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raybd.errors import InputError
from raybd.execution.data_parallel import _failed_outcome, new_mark, release, run_on_ranks
from raybd.execution.object_store import pack_data
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, plan_sweep
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.sweep import local_executor, ray_executor, run_sweep
from raybd.training import TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig
from raybd.trials.records import FINISHED, Record

pytestmark = pytest.mark.ray
CONFIG = TrialConfig(train=TrainConfig(epochs=4, workers=2), poison_rate=0.1)
TWO = Resources(cpus=1, gpus=0, workers=2)


@pytest.fixture(params=[(2, 0)])
def flags(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local Ray that believes in so many CPUs and GPUs; the folder of the flags, which its workers know."""
    import ray

    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(tmp_path))
    cpus, gpus = request.param
    small: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=cpus, num_gpus=gpus, logging_level="ERROR", **small)
    yield tmp_path
    ray.shutdown()


def own(function: str, seed: int = 0) -> TrialConfig:
    return replace(CONFIG, model=ModelConfig(name=f"tests.misbehaving:{function}"), seed=seed)


def planned(folder: Path, configs: list[TrialConfig]) -> SweepPlan:
    return plan_sweep("p", configs, folder / "results", f"sqlite:///{folder}/mlflow.db")


def record_of(plan: SweepPlan, config: TrialConfig) -> Record:
    record = plan.folder.trial(config.key).read()
    assert record is not None
    return record


@pytest.mark.long
def test_trials_run_one_after_another_and_a_killed_rank_costs_what_came_after_the_checkpoint(flags: Path) -> None:
    """Two trials of two ranks on two CPUs: neither waits for half of the other's. Then nothing is left to run."""
    plan = planned(flags, [own("rank_dies_once"), own("healthy")])
    executor = ray_executor(plan, replace(TWO, workers=1), "local")  # the number is in the configs
    assert (executor.cpus, executor.resources) == (2, replace(TWO, at_once=1))  # type: ignore[attr-defined]
    executor.setup = replace(executor.setup, checkpoint_seconds=0.0)
    result = run_sweep(plan, executor)
    assert [outcome.status for outcome in result.outcomes] == ["FINISHED", "FINISHED"], result.text
    told = {outcome.key: outcome for outcome in result.outcomes}
    died, healthy = (told[config.key] for config in plan.todo)
    assert died.earlier.startswith("rank 1 of 2 died: ")
    assert died.note.startswith("resumed from its checkpoint after epoch ")  # 2: step 50 is in the third of 22 steps
    ended = [record_of(plan, config) for config in plan.todo]
    assert {record.metrics.keys() == ended[0].metrics.keys() for record in ended} == {True}
    first, second = (record.started / 1000 for record in sorted(ended, key=lambda record: record.started))
    assert second >= first + min(record.seconds for record in ended) - 1
    assert healthy.earlier == ""
    assert not planned(flags, [own("rank_dies_once"), own("healthy")]).todo


class Attempts:
    """Attempts of trials by two workers on a connected Ray, without Tune."""

    def __init__(self, folder: Path, configs: list[TrialConfig], stall_seconds: float = 600.0) -> None:
        import ray

        self.plan = planned(folder, configs)
        self.setup = TrialSetup("p", self.plan.folder, self.plan.store.address, stall_seconds=stall_seconds)
        self.data, self.folder = ray.put(pack_data(self.plan.data["digits"])), folder

    def run(self, number: int) -> tuple[Outcome, float, Record]:
        """The outcome of one, seconds from its fault to that, and its record."""
        outcome = run_on_ranks(self.plan.todo[number], self.data, self.setup, TWO, new_mark())
        seconds = time.time() - float((self.folder / "fault").read_text())
        return outcome, seconds, record_of(self.plan, self.plan.todo[number])


@pytest.mark.calibration  # two attempts, half a minute each
def test_a_rank_that_raises_is_the_trial_s_failure_and_so_is_a_loss_that_is_no_number(flags: Path) -> None:
    attempts = Attempts(flags, [own("rank_raises"), own("diverges")])
    outcome, seconds, record = attempts.run(0)
    assert outcome.error == record.error == "rank 1 of 2: ValueError: planted failure of a rank"
    assert "misbehaving.py" in record.traceback
    assert outcome.retryable
    assert seconds < 15  # 5 on quiet cores
    outcome, _, record = attempts.run(1)
    assert "DivergedError: the training loss is nan in epoch 1 of 4" in outcome.error
    assert outcome.permanent
    assert "DivergedError" in record.traceback


@pytest.mark.calibration  # three attempts, half a minute each
def test_a_rank_that_is_killed_or_stopped_is_the_trial_s_failure(flags: Path) -> None:
    """One that is stopped, by its own watchdog; for one that hangs rank 0's ends the attempt."""
    attempts = Attempts(flags, [own("rank_dies"), own("rank_stops"), own("rank_hangs")], stall_seconds=8.0)
    for number in range(2):
        outcome, seconds, record = attempts.run(number)
        assert outcome.error == record.error
        assert outcome.error.startswith("rank 1 of 2 died: ")
        assert "gloo" not in outcome.error
        assert seconds < 60  # 30 on quiet cores
    outcome, seconds, record = attempts.run(2)
    assert outcome.error == record.error == "hung: no heartbeat for 8 s"
    assert "raybd/training/data_parallel.py" in record.traceback  # where rank 0 waited
    assert seconds < 60
    assert outcome.retryable


def test_a_rank_that_dies_after_rank_0_has_finished_the_trial_is_no_failure(tmp_path: Path) -> None:
    plan = planned(tmp_path, [CONFIG])
    setup = TrialSetup("p", plan.folder, plan.store.address)
    metrics = {"accuracy/clean": 0.9, "accuracy/robust": 0.9, "attack_success": 0.1}
    of_config = {"key": CONFIG.key, "label": CONFIG.label, "config": CONFIG.to_dict(), "params": CONFIG.params}
    record = Record(**of_config, status=FINISHED, metrics=metrics)
    died = {1: RuntimeError("its worker process has died")}
    assert _failed_outcome(CONFIG, setup, died).error.startswith("rank 1 of 2 died")
    plan.folder.trial(CONFIG.key).write(record)
    assert _failed_outcome(CONFIG, setup, died).finished


@pytest.mark.parametrize("flags", [(8, 3)], indirect=True)
def test_what_fits_is_taken_what_does_not_is_refused_and_what_ranks_held_is_released(flags: Path) -> None:
    """On one Ray, which takes seconds to start."""
    check_workers_that_do_not_fit(flags)
    check_gpus_that_fit(flags)
    check_what_is_released()


def check_workers_that_do_not_fit(flags: Path) -> None:
    four, nine = (replace(CONFIG, train=replace(CONFIG.train, workers=count)) for count in (4, 9))
    with pytest.raises(InputError, match="9 workers with 1 CPU each do not fit: there is room for 8"):
        ray_executor(planned(flags, [nine]), Resources(gpus=0), "local")
    with pytest.raises(InputError, match="2 workers with 5 CPU each do not fit: there is room for 1"):
        ray_executor(planned(flags, [CONFIG]), Resources(cpus=5, gpus=0), "local")
    with pytest.raises(InputError, match="4 workers with 1 CPU and 1 GPU each do not fit: there is room for 3"):
        ray_executor(planned(flags, [four]), Resources(gpus=4), "local")
    with pytest.raises(InputError, match="a trial by several workers runs on Ray"):
        local_executor(planned(flags, [CONFIG]))
    synchronised = replace(CONFIG, train=replace(CONFIG.train, sync_batch_norm=True))
    with pytest.raises(InputError, match="sync_batch_norm needs GPUs"):
        ray_executor(planned(flags, [synchronised]), Resources(gpus=0), "local")


@pytest.mark.long
@pytest.mark.parametrize("flags", [(8, 1)], indirect=True)
def test_four_trials_and_no_fifth_share_a_gpu(flags: Path) -> None:
    """Five trials: none of the first four goes on before all four have begun, and the fifth waits for a place."""
    alone = replace(own("waits_for_company"), train=TrainConfig(epochs=1))
    plan = planned(flags, [replace(alone, seed=seed) for seed in range(5)])
    executor = ray_executor(plan, Resources(gpus=0.25), "local")
    assert executor.setup.device == "cuda"
    executor.setup = replace(executor.setup, device="cpu")  # there is none
    assert len(run_sweep(plan, executor).outcomes) == 5
    notes = [[line.split() for line in file.read_text().splitlines()] for file in (flags / "company").iterdir()]
    assert len(notes) == 5
    assert {gpu for trial in notes for _, gpu in trial} == {"0"}
    spans = [(float(trial[0][0]), float(trial[-1][0])) for trial in notes]
    assert max(sum(start <= at <= end for start, end in spans) for at, _ in spans) == 4


def check_gpus_that_fit(flags: Path) -> None:
    executor = ray_executor(planned(flags, [CONFIG]), Resources(gpus=2), "local")
    assert executor.setup.device == "cuda"
    assert executor.resources.of_worker == {"CPU": 1.0, "GPU": 1.0}  # type: ignore[attr-defined]
    assert executor.resources.at_once == 1  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="1 CPUs and 4 GPUs fits no node"):
        ray_executor(planned(flags, [replace(CONFIG, train=TrainConfig())]), Resources(gpus=4), "local")
    with pytest.raises(InputError, match="cannot have 1.5 GPUs"):
        ray_executor(planned(flags, [CONFIG]), Resources(gpus=1.5), "local")


def check_what_is_released() -> None:
    """What the ranks of a killed trial held, and nothing else."""
    from ray.util import placement_group, placement_group_table

    mark, other = new_mark(), new_mark()
    groups = [placement_group([{"CPU": 0.5, "memory": one}] * 2) for one in (mark, other)]
    assert all(group.wait(30) for group in groups)
    release(mark)
    deadline = time.monotonic() + 30

    def states() -> list[str]:
        return [placement_group_table(group)["state"] for group in groups]

    while states() != ["REMOVED", "CREATED"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states() == ["REMOVED", "CREATED"]
