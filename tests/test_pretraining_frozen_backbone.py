"""A linear head on frozen features: a linear probe, and VIBE on frozen features."""

from pathlib import Path

import pytest
import torch

from raybd.defences.vibe import Vibe
from raybd.models import Classifier
from raybd.pretraining.frozen_backbone import FrozenBackbone
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data


def centred_pixels(x: torch.Tensor) -> torch.Tensor:
    """The pixels less their mean: features that separate digits, and that no trigger moves far."""
    flat = x.flatten(1).float() / 255
    return flat - 0.3


def on_pixels(shape: tuple[int, int, int], classes: int) -> Classifier:
    return FrozenBackbone("tests.test_pretraining_frozen_backbone:centred_pixels", shape, classes)


def test_vibe_on_features_of_a_user_function_in_a_trial(digits: Data) -> None:
    """The published digits bounds for linear features: accuracy at least .93 and ASR at most .10 (seed spread .08)."""
    model = ModelConfig(name="tests.test_pretraining_frozen_backbone:on_pixels")
    defence = Vibe(features="own", tuned=False, iterations=2000, learning_rate=0.01)
    common = {"poison_rate": 0.1, "model": model, "train": TrainConfig(epochs=4, learning_rate=0.5)}
    bare = run_trial(TrialConfig(**common), digits).metrics
    defended = run_trial(TrialConfig(**common, defence=defence), digits).metrics
    assert bare["attack_success"] > 0.8
    assert defended["attack_success"] <= 0.1
    assert defended["accuracy/clean"] >= 0.9
    assert defended["defence/auroc"] > 0.95


def test_a_torchvision_backbone_stays_as_it_is() -> None:
    network = FrozenBackbone("torchvision:resnet18", (3, 32, 32), 10, weights="random")
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    network.train()
    loss = network(torch.rand(4, 3, 32, 32)).square().sum()
    loss.backward()
    trained = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert trained == {"head.weight", "head.bias"}
    now = network.state_dict()
    assert all(torch.equal(now[name], weight) for name, weight in before.items())  # batch-norm's averages too


def test_a_source_without_weights_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none are downloaded"):
        FrozenBackbone("torchvision:resnet18", (3, 32, 32), 10)
