"""Deterministic algorithms where they are asked for, and the precision that a processor can compute in."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.command_line.grid import expand
from raybd.command_line.options import SweepOptions
from raybd.execution.plan import plan_sweep
from raybd.execution.sweep import local_executor
from raybd.execution.worker_environment import worker_variables
from raybd.training import TrainConfig
from raybd.training.determinism import deterministic_algorithms
from raybd.training.processor import SLOW, has_bf16, slow_bf16
from raybd.trials import run
from raybd.trials.base import TrialSession
from raybd.trials.config import TrialConfig
from raybd.types import Data

CONFIG = TrialConfig(train=TrainConfig(deterministic=True))


def settings() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.mark.parametrize("wanted", [True, False])
def test_every_rank_of_a_trial_takes_deterministic_algorithms_where_asked(
    wanted: bool, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs and no longer, and whatever becomes of it: its worker runs other trials afterwards."""
    seen, before = [], settings()

    class Kind:
        def run(self, *args: Any) -> None:
            seen.append(settings())
            raise ValueError

        follow = run

    monkeypatch.setattr(run, "kind_of", lambda config: Kind())
    config = replace(CONFIG, train=TrainConfig(deterministic=wanted))
    for part in (
        lambda: run.run_checked(config, digits, TrialSession()),
        lambda: run.follow_trial(config, digits, None),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            part()
        assert settings() == before
    assert seen == 2 * [(True, True, False) if wanted else before]


def test_workers_know_cublas_s_workspace_before_cuda_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert worker_variables()["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with deterministic_algorithms(False):
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic_algorithms(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert worker_variables()["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_the_option_reaches_every_trial_and_its_key_only_where_it_is_used() -> None:
    plain, asked = (expand(SweepOptions.of(seeds=1, deterministic=wanted)) for wanted in (False, True))
    assert all(config.train.deterministic for config in asked)
    assert not {config.key for config in plain} & {config.key for config in asked}
    assert all("deterministic" not in config.to_dict()["train"] for config in plain)
    assert TrialConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert TrialConfig().key == replace(CONFIG, train=TrainConfig()).key


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: request.param)
    has_bf16.cache_clear()
    yield
    has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("processor", "slow"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True}, False),
        ({"amx_bf16": True}, False),
        ({"neon": True, "bf16": True}, False),
        ({"neon": True}, True),
    ],
    indirect=["processor"],
)
def test_bf16_is_called_slow_by_name_where_the_processor_has_no_instructions_for_it(
    processor: None, slow: bool
) -> None:
    told = slow_bf16(TrainConfig(precision="bf16"), "cpu")
    assert ("avx512_bf16" in told) is slow
    assert slow_bf16(TrainConfig(precision="bf16"), "cuda") == ""
    assert slow_bf16(TrainConfig(), "cpu") == ""


@pytest.mark.parametrize("processor", [{"avx512_f": True}], indirect=True)
def test_who_asks_for_slow_bf16_is_warned_before_any_work(
    processor: None, digits: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig(train=TrainConfig(precision="bf16"))
    local_executor(plan_sweep("made", [config], tmp_path, f"sqlite:///{tmp_path}/made.db"))
    assert caplog.messages.count(SLOW) == 1
    monkeypatch.setattr("raybd.trials.run.run_checked", lambda *args: None)
    run.run_trial(config, digits)
    assert caplog.messages.count(SLOW) == 2
