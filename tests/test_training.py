"""The loop against PyTorch's own schedulers and hand-worked cases; resuming and seeds to the bit."""

import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from raybd.data import load
from raybd.errors import DivergedError
from raybd.seeds import derive, stream
from raybd.training import Checkpoint, TrainConfig, augment, fit, learning_rate, predict, prepare, probe_schedule
from raybd.trials.config import TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Images
from tests.conftest import made_images
from tests.processes import answered

HOW = TrainConfig(epochs=6, batch_size=16, learning_rate=0.05, crop=1, flip=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(256, 4)
    )


def bits(model: nn.Module) -> list[np.ndarray]:
    return [value.numpy().copy() for value in model.state_dict().values()]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    train_config, images = replace(HOW, optimizer=optimizer), made_images(40)
    whole, cut, resumed = network(), network(), network()
    losses = [epoch.loss for epoch in fit(whole, images, train_config, seed=1)]

    checkpoint = Checkpoint(tmp_path / "c.pt", every=0.0)
    training = fit(cut, images, train_config, seed=1, checkpoint=checkpoint)
    first = [next(training).loss for _ in range(4)]  # the state after epoch 3 is saved as epoch 4 begins
    training.close()
    later = list(fit(resumed, images, train_config, seed=1, checkpoint=Checkpoint(tmp_path / "c.pt")))

    assert [epoch.number for epoch in later] == [4, 5, 6]
    assert first[:3] + [epoch.loss for epoch in later] == losses
    assert all(np.array_equal(a, b) for a, b in zip(bits(whole), bits(resumed), strict=True))


def test_a_broken_checkpoint_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    epochs = list(fit(network(), made_images(40), HOW, 0, Checkpoint(tmp_path / "c.pt")))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert "cannot be read" in caplog.text


def test_other_seed_other_batches() -> None:
    first, other = network(), network()
    list(fit(first, made_images(40), HOW, seed=0))
    list(fit(other, made_images(40), HOW, seed=1))
    assert any(not np.array_equal(a, b) for a, b in zip(bits(first), bits(other), strict=True))


def test_one_step_of_sgd_by_hand() -> None:
    """Softmax regression, one batch, one epoch: w - lr (gradient + decay w), worked out in NumPy."""
    images = made_images(8, classes=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    w, b = (p.detach().double().numpy().copy() for p in model.parameters())
    train_config = TrainConfig(
        epochs=1, batch_size=8, learning_rate=0.3, momentum=0.0, weight_decay=0.1, schedule="constant"
    )
    epoch = next(fit(model, images, train_config, seed=0))

    x, y = images.x.flatten(1).double().numpy() / 255, np.eye(2)[images.y.numpy()]
    z = x @ w.T + b
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    new_w = w - 0.3 * ((p - y).T @ x / 8 + 0.1 * w)
    new_b = b - 0.3 * ((p - y).mean(0) + 0.1 * b)
    assert epoch.loss == pytest.approx(-np.log((p * y).sum(1)).mean(), rel=1e-5)
    assert np.allclose(model[1].weight.detach().numpy(), new_w, atol=1e-6)  # type: ignore[union-attr]
    assert np.allclose(model[1].bias.detach().numpy(), new_b, atol=1e-6)  # type: ignore[union-attr]


def test_momentum_and_the_schedule_over_two_epochs_by_hand() -> None:
    """Softmax regression, two epochs of one batch: v <- 0.9 v + g, w <- w - rate v, in NumPy."""
    images = made_images(8, classes=2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    w, v = model[1].weight.detach().double().numpy().copy(), np.zeros((2, 64))  # type: ignore[union-attr]
    train_config = TrainConfig(epochs=2, batch_size=8, learning_rate=0.3, weight_decay=0.0, schedule="cosine")
    list(fit(model, images, train_config, seed=0))
    x, y = images.x.flatten(1).double().numpy() / 255, np.eye(2)[images.y.numpy()]
    for rate in (0.3, 0.15):  # cosine over two steps: 0.3 (1 + cos 0) / 2, then 0.3 (1 + cos pi/2) / 2
        p = np.exp(x @ w.T) / np.exp(x @ w.T).sum(1, keepdims=True)
        v = 0.9 * v + (p - y).T @ x / 8
        w = w - rate * v
    assert np.allclose(model[1].weight.detach().numpy(), w, atol=1e-6)  # type: ignore[union-attr]


def test_every_epoch_has_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []

    def note(order: torch.Tensor, size: int) -> list[torch.Tensor]:
        orders.append(order.tolist())
        return [order]

    monkeypatch.setattr("raybd.training.loop.in_batches", note)
    list(fit(network(), made_images(40), replace(HOW, epochs=3), seed=0))
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(40)) for order in orders)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"label_smoothing": 0.0}, {"label_smoothing": 0.2}),
        ({"optimizer": "adamw", "weight_decay": 0.0}, {"optimizer": "adamw", "weight_decay": 0.5}),
        ({"crop": 0}, {"crop": 1}),
        ({"flip": False}, {"flip": True}),
    ],
)
def test_settings_reach_the_training(one: dict[str, object], other: dict[str, object]) -> None:
    models = [network(), network()]
    for model, change in zip(models, (one, other), strict=True):
        list(fit(model, made_images(40), replace(HOW, **change), seed=0))  # type: ignore[arg-type]
    assert any(not np.array_equal(a, b) for a, b in zip(*map(bits, models), strict=True))


@pytest.mark.parametrize("steps", [10, 97])
def test_schedules_are_pytorch_s(steps: int) -> None:
    def theirs(make: object) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
        schedule, rates = make(optimizer), []  # type: ignore[operator]
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    def ours(name: str) -> list[float]:
        train_config = TrainConfig(learning_rate=0.2, schedule=name)  # type: ignore[arg-type]
        return [learning_rate(train_config, step, steps) for step in range(steps)]

    assert ours("constant") == [0.2] * steps
    assert ours("cosine") == pytest.approx(theirs(lambda o: CosineAnnealingLR(o, T_max=steps)), abs=1e-9)
    one_cycle = theirs(lambda o: OneCycleLR(o, max_lr=0.2, total_steps=steps, cycle_momentum=False))
    assert ours("one_cycle") == pytest.approx(one_cycle, abs=1e-9)


def test_crop_is_a_window_of_the_padded_image() -> None:
    x = made_images(200, (3, 6, 6)).x
    moved = augment(x, crop=2, flip=False, rng=stream(0, "a"))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for image, result in zip(padded, moved.numpy(), strict=True):
        fits = [(r, c) for r in range(5) for c in range(5) if np.array_equal(image[:, r : r + 6, c : c + 6], result)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25  # every offset comes up among 200 draws (each is missed with probability 3e-4)


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = made_images(1000, (1, 4, 4)).x
    moved = augment(x, crop=0, flip=True, rng=stream(0, "a"))
    mirrored = (moved == x.flip(3)).flatten(1).all(1)
    assert ((moved == x).flatten(1).all(1) | mirrored).all()
    assert abs(int(mirrored.sum()) - 500) < 5 * math.sqrt(250)


def test_images_are_bytes_over_255() -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert prepare(x, TrainConfig()).flatten().tolist() == [0.0, pytest.approx(0.2), 1.0]


def test_prediction_is_in_evaluation_mode_and_batch_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network().train(), made_images(30).x
    whole = predict(model, x, TrainConfig())
    monkeypatch.setattr("raybd.training.inference._predicted_at_once", lambda x: 7)
    assert torch.allclose(predict(model, x, TrainConfig()), whole, atol=1e-6)
    expected = network().eval()(x.float() / 255)
    assert torch.allclose(whole, expected, atol=1e-6)
    assert whole.dtype == torch.float32


def test_a_lone_last_image_is_left_out() -> None:
    """17 images in batches of 16: batch norm over one image of one pixel would fail."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
    assert math.isfinite(next(fit(model, made_images(17), HOW, seed=0)).loss)


def test_divergence_is_told() -> None:
    train_config = replace(HOW, learning_rate=1e30, schedule="constant")
    with pytest.raises(DivergedError, match=r"the training loss is (nan|inf) in epoch \d of 6"):
        list(fit(network(), made_images(40), train_config, seed=0))


def test_patience_stops_when_the_loss_no_longer_falls() -> None:
    images = Images(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))  # logits 0 for ever: the loss is ln 4
    epochs = list(fit(model, images, replace(HOW, patience=2), seed=0))
    assert [(e.number, e.last) for e in epochs] == [(1, False), (2, False), (3, True)]
    assert epochs[0].loss == pytest.approx(math.log(4), rel=1e-6)


def test_bf16_is_close_to_fp32() -> None:
    full, half = network(), network()
    full[3] = half[3] = nn.Identity()  # dropout draws other numbers in another precision
    images, train_config = made_images(40), replace(HOW, learning_rate=0.01)
    a = [e.loss for e in fit(full, images, train_config, seed=0)]
    b = [
        e.loss
        for e in fit(half, images, replace(train_config, precision="bf16", memory_format="channels_last"), seed=0)
    ]
    assert a == pytest.approx(b, rel=0.02)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 3, 4, 8]), (20, [1, 2, 3, 4, 8, 16, 20])]
)
def test_probes_are_dense_early_and_hit_the_end(epochs: int, expected: list[int]) -> None:
    assert probe_schedule(epochs) == expected


def test_streams_are_apart_and_the_same_everywhere() -> None:
    # SHA-256 of "3/victims", first 8 bytes, shifted right once: computed with coreutils' sha256sum
    digest = subprocess.run(["sha256sum"], input=b"3/victims", capture_output=True, check=True).stdout
    assert derive(3, "victims") == int(digest[:16], 16) >> 1
    assert len({derive(s, n) for s in range(10) for n in ("victims", "trigger", "batches")}) == 30


def trained_bits(seed: int) -> tuple[Any, ...]:
    """Of a trial's network, its attack success, its victims and its trigger; and the process's hash of a word."""
    torch.set_num_threads(1)
    found = run_trial(TrialConfig(train=TrainConfig(epochs=2), seed=seed), load("digits"))
    weights = b"".join(value.numpy().tobytes() for value in found.model.state_dict().values())
    manifest = found.manifest
    return weights, found.metrics["attack_success"], manifest["indices"], manifest["trigger"], hash("word")


@pytest.mark.usefixtures("one_thread")
def test_two_processes_same_bits() -> None:
    here, there = trained_bits(0), answered(trained_bits, 0)
    assert here[:-1] == there[:-1]
    assert here[-1] != there[-1]  # nothing hangs on the order of a set
    assert trained_bits(1)[0] != here[0]
