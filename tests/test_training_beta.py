"""Poison weighted by beta: 0 is training without it, 1 as ever, and what lies between is the weighted objective."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import WaNet
from raybd.defences.oracle import Oracle
from raybd.errors import InputError
from raybd.seeds import stream
from raybd.training import TrainConfig, fit, learning_rate
from raybd.training.weighting import Flagged
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.twins import twin_of
from raybd.types import Data, Images
from tests.conftest import made_images

IMAGES, BATCH, EPOCHS = 41, 8, 3  # the last batch is a lone image, which waits
HOW = TrainConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.05, precision="fp32", memory_format="contiguous")


def net() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    return nn.Sequential(*layers)


def flagged(share: float = 0.25) -> Flagged:
    images = made_images(IMAGES)
    poison = torch.rand(IMAGES, generator=torch.Generator().manual_seed(2)) < share
    return Flagged(images.x, images.y, poison)


def trained(images: Images, train_config: TrainConfig) -> dict[str, Tensor]:
    model = net()
    losses = [epoch.loss for epoch in fit(model, images, train_config, seed=5)]
    return model.state_dict() | {"losses": torch.tensor(losses)}


def by_hand(images: Flagged, beta: float, drop: bool) -> dict[str, Tensor]:
    """The same training step by step: sum of w CE over the kept images, over (size of the whole batch) (1 - p)."""
    model, losses = net().train(), []
    momenta = [torch.zeros_like(p) for p in model.parameters()]
    clean = float((~images.poison).sum()) / IMAGES
    steps = EPOCHS * 5
    for epoch in range(1, EPOCHS + 1):
        order = torch.randperm(IMAGES, generator=stream(5, "batches", epoch))
        total = 0.0
        for k, batch in enumerate(order[:40].split(BATCH)):
            kept = batch[~images.poison[batch]] if drop else batch
            weights = torch.where(images.poison[kept], beta, 1.0)
            losses_of = F.cross_entropy(model(images.x[kept].float() / 255), images.y[kept], reduction="none")
            loss = (weights * losses_of).sum() / (BATCH * clean)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            lr = learning_rate(HOW, (epoch - 1) * 5 + k, steps)
            with torch.no_grad():
                for p, g, m in zip(model.parameters(), gradients, momenta, strict=True):
                    m.mul_(0.9).add_(g + HOW.weight_decay * p)
                    p -= lr * m
            total += float(loss.detach()) * BATCH
        losses.append(total / 40)
    return model.state_dict() | {"losses": torch.tensor(losses)}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_beta_0_is_training_on_the_same_batches_without_the_poison_rows() -> None:
    """Weights, losses, and the running means of batch norm."""
    found = trained(flagged(), replace(HOW, beta=0.0))
    assert_same(found, by_hand(flagged(), 0.0, drop=True))
    kept_in = by_hand(flagged(), 0.0, drop=False)
    assert (found["1.running_mean"] - kept_in["1.running_mean"]).abs().max() > 1e-3


@pytest.mark.parametrize("beta", [0.03, 0.5, 1.0])
def test_beta_weighs_each_poisoned_image(beta: float) -> None:
    assert_same(trained(flagged(), replace(HOW, beta=beta)), by_hand(flagged(), beta, drop=False))


def test_beta_0_sees_nothing_of_the_poison() -> None:
    """Other pixels and labels of poison: the same bits."""
    images = flagged()
    x, y = images.x.clone(), images.y.clone()
    x[images.poison], y[images.poison] = 255 - x[images.poison], (y[images.poison] + 1) % 4
    train_config = replace(HOW, beta=0.0)
    first, second = trained(images, train_config), trained(Flagged(x, y, images.poison), train_config)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_beta_1_is_ordinary_training_but_for_a_constant() -> None:
    """The loss over 1 - p: without weight decay the same as a learning rate over 1 - p."""
    images, train_config = flagged(), replace(HOW, weight_decay=0.0)
    clean = float((~images.poison).double().mean())
    weighted = trained(images, train_config)
    plain = trained(Images(images.x, images.y), replace(train_config, learning_rate=train_config.learning_rate / clean))
    weighted["losses"] = weighted["losses"] * clean
    assert_same(weighted, plain)


def test_without_poison_the_weight_is_nothing() -> None:
    images = flagged(share=0.0)
    for beta in (0.0, 0.5):
        found, plain = trained(images, replace(HOW, beta=beta)), trained(Images(images.x, images.y), HOW)
        assert_same(found, plain, 1e-6)


def test_batch_means_weigh_the_groups() -> None:
    """One batch, one step: mean CE of clean + beta * mean CE of poison; a batch without poison has none."""
    images = flagged()
    train_config = replace(HOW, epochs=1, batch_size=IMAGES, beta=0.3, beta_mode="batchmean")
    logits = net().train()(images.x.float() / 255)
    losses = F.cross_entropy(logits, images.y, reduction="none")
    wanted = losses[~images.poison].mean() + 0.3 * losses[images.poison].mean()
    assert trained(images, train_config)["losses"].item() == pytest.approx(float(wanted), rel=1e-5)
    none = flagged(share=0.0)
    assert trained(none, train_config)["losses"].item() == pytest.approx(float(losses.mean()), rel=1e-5)


CONFIG = TrialConfig(poison_rate=0.1, model=ModelConfig(width=0.25), train=TrainConfig(epochs=3))


def success(beta: float, mode: str, data: Data) -> float:
    train = replace(CONFIG.train, beta=beta, beta_mode=mode)  # type: ignore[arg-type]
    return run_trial(replace(CONFIG, train=train), data).metrics["attack_success"]


def test_a_trial_s_attack_success_rises_with_beta(digits: Data) -> None:
    """At 0 the trigger does no more than on the clean twin; the batch's mean makes poison weigh (1 - p) / p as much."""
    found = [success(beta, "sample", digits) for beta in (0.0, 0.1, 1.0)]
    assert found[0] < 0.1
    assert found == sorted(found)
    assert found[2] > 0.6
    assert success(0.1, "batchmean", digits) > found[1] + 0.2


def test_the_clean_twin_knows_no_beta() -> None:
    weighted = replace(CONFIG, train=replace(CONFIG.train, beta=0.1))
    assert weighted.key != CONFIG.key
    assert twin_of(weighted) == twin_of(CONFIG)
    assert "beta=0.1" in weighted.label
    assert "beta" not in CONFIG.label


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": replace(CONFIG.train, beta=1.5)}, "beta must be in [0, 1], got 1.5"),
        ({"train": replace(CONFIG.train, beta=-0.1)}, "beta must be in [0, 1], got -0.1"),
        ({"train": replace(CONFIG.train, beta=float("nan"))}, "beta must be in [0, 1], got nan"),
        ({"train": replace(CONFIG.train, beta=0.5), "poison_rate": 0.0}, "at poison rate 0 beta weighs nothing"),
        ({"train": replace(CONFIG.train, beta=0.5), "defence": Oracle()}, "cannot have a defence"),
        ({"train": replace(CONFIG.train, beta=0.5), "attack": WaNet(each_epoch=True)}, "in every epoch"),
        (
            {"train": replace(CONFIG.train, beta_mode="median")},
            "beta_mode must be one of sample, batchmean, got 'median'",
        ),
    ],
)
def test_what_cannot_be_weighted(changes: dict[str, object], said: str, digits: Data) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        run_trial(replace(CONFIG, **changes), digits)  # type: ignore[arg-type]
