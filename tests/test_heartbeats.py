"""Long measurements call their heartbeat, so that the watchdog tells them from hung ones."""

import signal
import threading
import time
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from raybd.execution.watchdog import watchdog
from raybd.metrics.detection import NeuralCleanse, NoiseVotes
from raybd.metrics.information import trained_critics
from raybd.metrics.smoothing.votes import count_votes
from raybd.metrics.smoothness import Smoothness
from raybd.models import build_model
from raybd.training import TrainConfig
from raybd.trials.config import TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data
from raybd.utils import locks
from raybd.utils.locks import heartbeat_thread
from tests.processes import exit_status


class Slow(nn.Module):
    """Takes a fifth of a second for a batch."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.2)
        return x.flatten(1)[:, :2]


def count_for_four_seconds(heartbeats: bool) -> None:
    """Count votes under a watchdog of two seconds."""
    with watchdog(2) as heartbeat:
        images = torch.zeros(1, 16, 1, 8, 8)
        count_votes(
            Slow().eval(),
            images,
            range(16),
            (0.1,),
            (64,),
            0,
            batch=64,
            heartbeat=heartbeat if heartbeats else lambda: None,
        )


def test_a_long_measurement_with_heartbeats_is_not_ended() -> None:
    assert [exit_status(count_for_four_seconds, heartbeats) for heartbeats in (True, False)] == [0, -signal.SIGKILL]


@pytest.mark.parametrize(
    ("metric", "least"),
    [
        (Smoothness(points=100, draws=64), 20),  # 100 points x 2 sigmas x 2 variants x 64 draws in batches of 512
        (NoiseVotes(points=50, draws=64), 20),
        (NeuralCleanse(runs=2, steps=10), 40),  # steps of the network and of the twin
    ],
    ids=["smoothness", "noise_votes", "neural_cleanse"],
)
def test_long_metrics_call_their_heartbeat(metric: object, least: int, digits: Data) -> None:
    config = TrialConfig(train=TrainConfig(epochs=1), poison_rate=0.1)
    heartbeats: list[int] = []

    def counted(*metrics: object) -> int:
        heartbeats.clear()
        run_trial(replace(config, metrics=metrics), digits, heartbeat=lambda: heartbeats.append(1))  # type: ignore[arg-type]
        return len(heartbeats)

    assert counted(metric) >= counted() + least


def test_the_authors_estimator_calls_its_heartbeat_at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: replace(getattr(trained_critics, name), epochs=5, batch=16) for name in ("XT", "TY")}
    for name, settings in few.items():
        monkeypatch.setattr(trained_critics, name, settings)
    model, heartbeats = (
        build_model("small_cnn", (1, 8, 8), 4, (0.0,), (1.0,), width=0.25, noise=0.4).eval(),
        list[int](),
    )
    x = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    trained_critics.published_estimates(model, x, {"g": torch.arange(64)}, 0, lambda: heartbeats.append(1))
    assert len(heartbeats) == 2 * (1 + 5 * few["XT"].batches(64))


def test_a_heartbeat_thread_holds_nothing_once_the_work_has_ended() -> None:
    """Else a process may end while that thread frees the data, and is aborted."""
    for _ in range(20):
        data = nn.Linear(1, 1)
        freed = weakref.ref(data)
        with heartbeat_thread(lambda kept=data: None, every=60):
            del data
        assert freed() is None


def test_a_heartbeat_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "JOIN", 0.1)
    begun, over = threading.Event(), threading.Event()
    with heartbeat_thread(lambda: (begun.set(), over.wait(60)), every=0.01):
        assert begun.wait(30)
    assert not over.is_set()
    over.set()
