"""VIBE's features from a file of rows, or by a frozen network with the weights of a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import models

from raybd.attacks import parse as attack
from raybd.attacks.poisoning import PoisonSpec
from raybd.command_line.command import main
from raybd.data import load
from raybd.defences import DEFENCES
from raybd.defences.vibe import Vibe
from raybd.defences.vibe.sources import Source, parse_source
from raybd.errors import InputError
from raybd.models import build_model
from raybd.plugins import describe, parse
from raybd.pretraining import PretrainConfig, embed, extractor
from raybd.pretraining.encoder_cache import encoder_key
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.twins import twin_of
from raybd.trials.validate import prepare
from raybd.types import POISON, Data
from sweeps.ib import PRESETS, summarise

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = "digits[0,1,2;300]"
QUICK = Vibe(tuned=False, iterations=200, e_steps=5, learning_rate=0.01, batch_size=64)
SHORT = TrialConfig(
    data=SMALL, attack=attack("badnets"), poison_rate=0.1, train=TrainConfig(epochs=3), model=ModelConfig(width=0.25)
)


@pytest.fixture(scope="module")
def small() -> Data:
    return load(SMALL)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of the state of a small torchvision network, drawn at random."""
    file = tmp_path_factory.mktemp("weights") / "squeeze.pt"
    torch.manual_seed(0)
    torch.save(models.mnasnet0_5(weights=None).state_dict(), file)
    return str(file)


def rows_of(data: Data, config: TrialConfig) -> Tensor:
    """Features that tell the true classes, and of the poisoned images nothing else: as good as any encoder's."""
    poisoned = PoisonSpec(config.attack, config.poison_rate, config.seed).poison(data.train, len(data.classes))
    rng = torch.Generator().manual_seed(0)
    return 3 * torch.eye(16)[poisoned.true] + 0.3 * torch.randn(len(poisoned.true), 16, generator=rng) + 2


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("simclr", Source("simclr")),
        ("npy:/a/b.npy", Source("npy", file="/a/b.npy")),
        ("npy:C:/b.npy", Source("npy", file="C:/b.npy")),
        ("torchvision:resnet18:w:2.pt", Source("torchvision", "resnet18", "w:2.pt")),
    ],
)
def test_sources_are_named_by_a_setting(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert source.with_file(source.file) == text
    made = parse("defence", DEFENCES, f"vibe:tuned=false,deploy=retrained,features={text}")
    assert parse("defence", DEFENCES, describe(DEFENCES, made)) == made


@pytest.mark.parametrize("text", ["simclr:x", "npy", "npy:", "torchvision:resnet18", "torchvision::w.pt", "clip", ""])
def test_other_names_are_refused(text: str) -> None:
    found = Vibe(features=text).check((1, 8, 8), 10)
    assert any("features must be one of simclr, nnclr, own, npy:FILE, torchvision:NAME:FILE" in one for one in found)


def test_rows_go_with_a_retrained_network_alone_and_stay_as_they_are() -> None:
    found = Vibe(features="npy:rows.npy").check((1, 8, 8), 10)
    assert "Vibe: features npy:rows.npy stay as they are: tuned must be false" in found
    assert "Vibe: rows of a file are known of the training images alone: deploy must be retrained" in found
    assert Vibe(features="npy:rows.npy", tuned=False, deploy="retrained").check((1, 8, 8), 10) == []


def test_rows_of_a_file_teach_a_network_that_tells_no_features(small: Data, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows_of(small, SHORT).numpy())
    defence = replace(QUICK, features=f"npy:{tmp_path}/rows.npy", deploy="retrained", kappa=20, nu=20)
    config = replace(SHORT, defence=defence, model=ModelConfig(name="tests.test_models_adapted:soft"))
    found = run_trial(config, small, shared=tmp_path)
    assert found.metrics["vibe/first_right"] > 0.9
    assert found.metrics["vibe/poison_kept"] <= 0.2
    assert "vibe/probe_accuracy" not in found.metrics  # no test image has a row
    poisoned = PoisonSpec(config.attack, 0.1, 0).poison(small.train, 3)
    right = (found.arrays["defence/pseudolabel"] == poisoned.true).float().mean()
    assert right > 0.95
    assert int((poisoned.roles == POISON).sum()) > 10


@pytest.mark.parametrize("deploy", ["head", "linear", "retrained"])
def test_a_frozen_network_of_a_file_reads_triggered_images_too(
    small: Data, weights: str, deploy: Any, tmp_path: Path
) -> None:
    defence = replace(QUICK, features=f"torchvision:mnasnet0_5:{weights}", deploy=deploy, iterations=20)
    small = replace(small, train=small.train.take(torch.arange(30)), test=small.test.take(torch.arange(12)))
    found = run_trial(replace(SHORT, defence=defence, data=small.name), small, shared=tmp_path)
    assert 0 <= found.metrics["vibe/probe_accuracy"] <= 1
    assert len(list((tmp_path / "encoders" / "features").glob("*.pt"))) == 1
    if deploy == "retrained":
        return
    reference = extractor("torchvision:mnasnet0_5", weights=weights)
    assert torch.allclose(embed(found.model.backbone, small.test.x), embed(reference, small.test.x))  # type: ignore[arg-type]


def test_the_content_of_the_file_makes_the_key_and_its_path_does_not(small: Data, tmp_path: Path) -> None:
    rows = rows_of(small, SHORT).numpy()
    keys = []
    for name, array in (("a", rows), ("b", rows), ("c", rows + 1)):
        np.save(tmp_path / f"{name}.npy", array)
        defence = replace(QUICK, features=f"npy:{tmp_path}/{name}.npy", deploy="retrained")
        (config,), _ = prepare([replace(SHORT, defence=defence)])
        keys.append(config.key)
        assert twin_of(config).key != config.key
        assert "defence.features.content" in config.params
        assert dict(twin_of(config).contents) == dict(config.contents)
    assert keys[0] == keys[1] != keys[2]
    np.save(tmp_path / "c.npy", rows + 2)
    with pytest.raises(InputError, match=r"c\.npy has changed since the trial was planned"):
        run_trial(config, small)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("missing", None, "the features in missing.npy cannot be read"),
        ("short", np.zeros((7, 4)), "short.npy has 7 rows, and the trial trains on"),
        ("flat", np.zeros(300), "flat.npy must hold one array of numbers (N, D)"),
        ("words", np.array([["a"]] * 300), "words.npy must hold one array of numbers (N, D)"),
    ],
)
def test_a_dry_run_refuses_rows_that_are_not_the_images(
    name: str,
    array: np.ndarray[Any, Any] | None,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if array is not None:
        np.save(f"{name}.npy", array)
    options = ["--dry-run", "--data", SMALL, "--noise", "0", "--metrics"]
    assert main(
        PRESETS, summarise, [*options, "--defences", f"vibe:tuned=false,deploy=retrained,features=npy:{name}.npy"]
    )
    assert says in capsys.readouterr().err


def test_a_dry_run_refuses_weights_of_another_network(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dry-run", "--data", SMALL, "--noise", "0", "--metrics", "--defences"]
    for name, says in (
        ("resnet18", "holds no weights of torchvision:resnet18"),
        ("nosuch", "unknown torchvision model"),
    ):
        assert main(PRESETS, summarise, [*options, f"vibe:tuned=false,features=torchvision:{name}:{weights}"])
        assert says in capsys.readouterr().err


def test_without_later_settings_an_encoder_is_the_one_of_before(small: Data) -> None:
    torch.manual_seed(0)
    model: Any = build_model("small_cnn", small.train.shape, 3, small.mean, small.std)
    before = encoder_key(model, small.train.x, PretrainConfig(method="simclr", epochs=80), 0)
    now = Vibe().pretraining("simclr", 80, small.train.shape)
    assert encoder_key(model, small.train.x, now, 0) == before
    other = Vibe(view_noise=0.3).pretraining("simclr", 80, small.train.shape)
    assert encoder_key(model, small.train.x, other, 0) != before
