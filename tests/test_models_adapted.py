"""Features of networks that were not written for raybd."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.command_line.command import main
from raybd.defences.vibe import Vibe
from raybd.errors import InputError
from raybd.metrics.mutual_information import MutualInformation
from raybd.models import build_model, built_content, feature_problem
from raybd.models.adapted import AdaptedClassifier, as_classifier
from raybd.models.noise import NoisyReLU
from raybd.pretraining import embed
from raybd.training import TrainConfig, fit
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data
from sweeps.ib import PRESETS, summarise

SHAPE = (1, 8, 8)
HERE = "tests.test_models_adapted"


class Net(nn.Module):
    """A network as in PyTorch's tutorials: batch norm and dropout, an end of its own in a subclass."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(36, classes)

    def read(self, x: Tensor) -> Tensor:
        return self.drop(F.relu(self.norm(self.conv((x - 0.3) / 0.4))).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(x))  # type: ignore[no-any-return]


class SoftmaxAfter(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(1)


class TwoHeads(Net):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.other = nn.Linear(36, classes)

    def forward(self, x: Tensor) -> Tensor:
        v = self.read(x)
        return self.fc(v) + self.other(v)  # type: ignore[no-any-return]


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(self.first(x.flatten(1))).relu())  # type: ignore[no-any-return]


class Shared(Reused):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(10, 10)
        self.middle.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.first(x.flatten(1))).relu())  # type: ignore[no-any-return]


class ReadsItsWeights(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.read(x) * self.fc.weight.norm())  # type: ignore[no-any-return]


class OnlyInTraining(Net):
    def forward(self, x: Tensor) -> Tensor:
        found = self.fc(self.read(x))
        return found * 2 if self.training else found  # type: ignore[no-any-return]


class TwoNames(Net):
    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Sequential(self.drop, self.fc)


class Named(TwoHeads):
    last_layer = "other"


class NamedWell(Net):
    last_layer = "fc"


class NamedBadly(Net):
    last_layer = "head"


def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Net(classes)


def soft(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return SoftmaxAfter(classes)


def noisy(shape: tuple[int, int, int], classes: int, noise: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), NoisyReLU(noise), nn.Linear(16, classes))


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


@pytest.mark.parametrize("kind", [Net, TwoNames, NamedWell])
def test_features_are_what_the_last_layer_reads(kind: type[Net]) -> None:
    plain, model = seeded(kind), as_classifier(seeded(kind), SHAPE)
    assert isinstance(plain, Net)
    assert isinstance(model, AdaptedClassifier)
    assert feature_problem(model) == ""
    assert isinstance(model.head, nn.Linear)
    x = torch.randint(0, 256, (9, *SHAPE), dtype=torch.uint8)
    assert torch.equal(embed(model, x), plain.eval().read(x.float() / 255))
    assert model.feature_size == 36
    assert {id(w) for w in model.parameters()} == {id(w) for w in (*model.body.parameters(), *model.head.parameters())}


@pytest.mark.parametrize("training", [False, True])
def test_an_adapted_network_is_trained_as_the_plain_one_to_the_bit(digits: Data, training: bool) -> None:
    plain, model = seeded(Net), as_classifier(seeded(Net), SHAPE)
    images = digits.train.take(torch.arange(200))
    losses = [[e.loss for e in fit(one, images, TrainConfig(epochs=2), 0)] for one in (plain, model)]
    assert losses[0] == losses[1]
    plain.train(training)
    model.train(training)
    outputs = []
    for one in (plain, model):
        torch.manual_seed(1)
        outputs.append(one(images.x / 255))
    assert torch.equal(*outputs)


def test_it_draws_nothing_and_leaves_statistics_and_mode_as_they_were() -> None:
    model = seeded(Net).eval()
    before = torch.random.get_rng_state()
    known = as_classifier(model, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not known.training
    assert int(known.get_buffer("body.norm.num_batches_tracked")) == 0


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (SoftmaxAfter, "something comes after 'fc', its last one (return the logits, without a softmax)"),
        (TwoHeads, "something comes after 'other'"),
        (Named, "without 'other' it fails: RuntimeError"),
        (NamedBadly, "last_layer is 'head', and its linear layers are fc"),
        (Reused, "'fc' is used more than once"),
        (Shared, "the weights of 'fc' are also those of middle.weight"),
        (ReadsItsWeights, "without 'fc' it fails: AttributeError"),
        (OnlyInTraining, "'fc' is used more than once, or its logits are more than the output of it"),
    ],
)
def test_a_layer_that_is_not_the_whole_end_is_seen(kind: type[nn.Module], why: str) -> None:
    model, plain = seeded(kind), seeded(kind)
    assert as_classifier(model, SHAPE) is model
    assert why in feature_problem(model)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(model.eval()(x), plain.eval()(x))  # it is whole
    with pytest.raises(InputError, match="VIBE needs features"):
        Vibe().network(model)


def test_a_network_without_a_linear_layer_is_seen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert as_classifier(model, SHAPE) is model
    assert "it has no linear layer" in feature_problem(model)


def test_what_a_network_is_does_not_hang_on_its_features() -> None:
    built = build_model(f"{HERE}:net", SHAPE, 10, [0.0], [1.0])
    assert isinstance(built, AdaptedClassifier)
    assert built_content(f"{HERE}:net", SHAPE, 10) == built_content(f"{HERE}:net", SHAPE, 10, noise=0.0)


def test_noise_is_added_to_features_where_a_function_takes_none() -> None:
    torch.manual_seed(0)
    model = build_model(f"{HERE}:net", SHAPE, 10, [0.0], [1.0], noise=0.5).eval()
    assert isinstance(model, AdaptedClassifier)
    assert model.noise == 0.5
    x = torch.rand(1, *SHAPE)
    draws = torch.stack([model(x)[0] for _ in range(2000)])
    expected = 0.5 * model.head.weight.norm(dim=1)
    assert torch.allclose(draws.std(0), expected, rtol=0.1)
    with pytest.raises(InputError, match="has no setting noise .* features that it could be added to"):
        build_model(f"{HERE}:soft", SHAPE, 10, [0.0], [1.0], noise=0.5)


def test_trials_with_vibe_and_with_measures_of_features(digits: Data) -> None:
    short = TrialConfig(
        model=ModelConfig(name=f"{HERE}:net"), train=TrainConfig(epochs=1), poison_rate=0.1, probes=(1,)
    )
    quick = Vibe(features="own", tuned=False, iterations=20, e_steps=2)
    for deploy in ("head", "retrained"):
        found = run_trial(replace(short, defence=replace(quick, deploy=deploy)), digits)  # type: ignore[arg-type]
        assert 0 <= found.metrics["vibe/probe_accuracy"] <= 1
    noisy_net = replace(short, model=ModelConfig(name=f"{HERE}:net", noise=0.3))
    measured = run_trial(replace(noisy_net, metrics=(MutualInformation(samples=48, passes=8),)), digits)
    assert any(name.startswith("mi/") for name in measured.metrics)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--defences", "vibe"), "VIBE needs features: SoftmaxAfter is no raybd.models.Classifier"),
        (("--defences", "vibe:deploy=retrained"), "VIBE needs features: SoftmaxAfter is no raybd.models.Classifier"),
        (("--defences", "spectral"), "Spectral needs features: SoftmaxAfter is no raybd.models.Classifier"),
        (("--defences", "dbd"), "dbd needs features: SoftmaxAfter is no raybd.models.Classifier"),
    ],
)
def test_a_dry_run_refuses_what_no_trial_could_have(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str
) -> None:
    common = ["--dry-run", "--noise", "0", "--model", f"{HERE}:soft", "--metrics"]
    assert main(PRESETS, summarise, [*common, *options]) == 2
    assert says in capsys.readouterr().err


def test_a_dry_run_refuses_noise_that_a_measure_cannot_know(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--dry-run", "--noise", "0.4", "--model", f"{HERE}:noisy", "--metrics", "mutual_information"]
    assert main(PRESETS, summarise, common) == 2
    assert "needs features that are read with noise" in capsys.readouterr().err


def test_a_dry_run_takes_a_plain_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--dry-run", "--noise", "0", "--model", f"{HERE}:net", "--metrics", "--results", str(tmp_path)]
    assert main(PRESETS, summarise, [*common, "--defences", "none", "vibe", "spectral"]) == 0
    assert "error" not in capsys.readouterr().err
