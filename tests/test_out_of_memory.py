"""Memory that runs out in a trial: the trial runs again, alone, with smaller budgets, and only then has failed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.errors import InputError
from raybd.execution import attempt, worker
from raybd.execution.memory import is_out_of_memory
from raybd.execution.outcome import Outcome
from raybd.execution.plan import plan_sweep
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.sweep import local_executor, run_sweep
from raybd.models.batch_size import memory_budget
from raybd.pixels import is_streamed
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FAILED, FINISHED

CONFIG = TrialConfig(train=TrainConfig(epochs=1), model=ModelConfig(width=0.25), poison_rate=0.1)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_memory_that_ran_out_is_known_by_any_name(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = InputError("model yours:network fails")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA error: an illegal access"), InputError("out of memory")])
def test_other_errors_are_not(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


class Card:
    """A stand-in for trials, of which that of seed 0 needs too much memory once; what each attempt was given."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.attempts: list[tuple[int, bool, float]] = []

    def __call__(self, config: TrialConfig, data: Any, session: Any) -> Any:
        budget = memory_budget(torch.device("cpu"))
        self.attempts.append((config.seed, is_streamed(data.train.x), budget))
        if config.seed == 0 and len(self.attempts) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.run(config, data, session)


def test_a_trial_runs_again_after_all_others_with_smaller_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(attempt.run_checked)
    monkeypatch.setattr(attempt, "run_checked", card)
    monkeypatch.setattr("raybd.models.batch_size.available_bytes", lambda: 2**30)
    configs = [CONFIG, TrialConfig(train=CONFIG.train, model=CONFIG.model, poison_rate=0.1, seed=1)]
    plan = plan_sweep("s", configs, tmp_path / "results", f"sqlite:///{tmp_path}/m.db")
    result = run_sweep(plan, local_executor(plan))
    assert card.attempts == [(0, False, 2**29), (1, False, 2**29), (0, True, 2**27)]
    ended = {outcome.key: outcome for outcome in result.outcomes}
    assert [ended[config.key].status for config in plan.todo] == [FINISHED, FINISHED]
    assert "out of memory" in ended[plan.todo[0].key].earlier


def test_a_packed_trial_has_a_whole_gpu_when_it_runs_alone() -> None:
    from raybd.execution.tune_run import reservation

    held = reservation(Resources(cpus=2, gpus=0.25))
    assert held({"key": "k"}).required_resources == {"CPU": 2, "GPU": 0.25}
    assert held({"key": "k", "alone": True}).required_resources == {"CPU": 2, "GPU": 1}
    assert reservation(Resources(cpus=2, gpus=0)) == {"cpu": 2, "gpu": 0}


def test_a_worker_reports_memory_that_ran_out_instead_of_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", ended.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    worker.clear_gpu(Outcome("k", "", FAILED, error="AcceleratorError: CUDA error: out of memory", out_of_memory=True))
    assert not ended
    worker.clear_gpu(Outcome("k", "", FAILED, error="AcceleratorError: CUDA error: an illegal memory access"))
    assert len(ended) == 1


def test_the_worker_of_a_trial_that_runs_alone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[TrialSetup] = []

    def function(config: TrialConfig, data: Any, setup: TrialSetup, heartbeat: Any) -> Outcome:
        seen.append(setup)
        return Outcome(config.key, "", FINISHED)

    plan = plan_sweep("s", [CONFIG], tmp_path / "results", f"sqlite:///{tmp_path}/m.db")
    setup, config = TrialSetup("s", plan.folder, plan.store.address), plan.todo[0]
    monkeypatch.setattr(worker.ray, "get", lambda given: given)
    monkeypatch.setattr(worker, "unpack_data", lambda given: given)
    monkeypatch.setattr(worker.tune, "report", lambda given: None)
    monkeypatch.setattr(worker.memory, "freeze", lambda: None)
    monkeypatch.setattr(worker.memory, "skip_triton_import", lambda: None)
    monkeypatch.setattr(worker, "unpack_config", lambda configs, key: config)
    for point in ({"key": config.key}, {"key": config.key, "alone": True}):
        worker.run_in_worker(point, {}, {config.image_set: [None]}, setup, function, Resources())
    assert [one.tight for one in seen] == [False, True]
