"""Long measurements call their heartbeat, so that the watchdog tells them from hung ones."""

import os
import signal
import time
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


class Slow(nn.Module):
    """Takes a fifth of a second for a batch."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.2)
        return x.flatten(1)[:, :2]


def ended(heartbeats: bool) -> int:
    """The exit status of a process that counts votes for four seconds under a watchdog of two."""
    if not (child := os.fork()):
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
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_long_measurement_with_heartbeats_is_not_ended() -> None:
    assert (ended(heartbeats=True), ended(heartbeats=False)) == (0, -signal.SIGKILL)


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
