"""Pretrained weights of torchvision's networks: the bits of torchvision's own loading, and one error for others."""

import math
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from raybd.command_line.grid import expand
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.models import build_model, sketch_model
from raybd.models.base import Classifier
from raybd.models.noise import Noise, NoisyReLU, without_noise
from raybd.models.pretrained import weights_file
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.contents import with_contents
from raybd.trials.run import run_trial
from raybd.types import Data
from sweeps.ib import PRESETS


def tiny_vit(*, weights: None = None, progress: bool = True, image_size: int = 16, **more: Any) -> VisionTransformer:
    """Two layers over patches of 4x4 pixels."""
    size = {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    return VisionTransformer(image_size=image_size, **size, **more)


def tiny_convnext(*, weights: None = None, progress: bool = True, **more: Any) -> ConvNeXt:
    return ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], **more)


def tiny_resnet(*, weights: None = None, progress: bool = True, **more: Any) -> ResNet:
    return ResNet(BasicBlock, [1, 1, 1, 1], **more)


TINY = {"vit_tiny": tiny_vit, "convnext_little": tiny_convnext, "resnet10": tiny_resnet}


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own builders with small networks among them: its smallest transformer has 86 million weights."""
    models = torchvision.models
    known, get = models.list_models(module=models), models.get_model
    monkeypatch.setattr(models, "list_models", lambda **_: [*known, *TINY])
    monkeypatch.setattr(
        models, "get_model", lambda name, **more: TINY[name](**more) if name in TINY else get(name, **more)
    )


def saved(name: str, folder: Path, seed: int = 1, **more: Any) -> tuple[Path, nn.Module]:
    """torchvision's network of 7 classes with random weights, and the file of its state_dict."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(name, num_classes=7, **more)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(network.state_dict(), folder / f"{name}.pth")
    return folder / f"{name}.pth", network.eval()


def built(name: str, weights: Path | str = "", **more: Any) -> Classifier:
    torch.manual_seed(0)
    shape = more.pop("shape", (3, 12, 12))
    model = build_model(
        f"torchvision:{name}", shape, 4, [0.4] * shape[0], [0.2] * shape[0], weights=str(weights), **more
    )
    assert isinstance(model, Classifier)
    return model.eval()


def images(count: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 12, 12, generator=torch.Generator().manual_seed(3))


def expected_features(network: nn.Module, x: Tensor, size: int) -> Tensor:
    """What torchvision's own network, without its head, makes of `x` (N, C, H, W) in [0, 1], normalised by it."""
    last = list(network.named_modules())[-1][0]
    network.set_submodule(last, nn.Identity())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = torchvision.transforms.functional.normalize(x, mean.tolist(), std.tolist())
    bigger = nn.functional.interpolate(normal, (size, size), mode="bilinear")
    found: Tensor = network(bigger)
    return found


@pytest.mark.parametrize(("name", "size"), [("resnet10", 32), ("convnext_little", 32), ("vit_tiny", 16)])
def test_the_weights_are_those_of_the_file_and_give_torchvision_s_bits(name: str, size: int, tmp_path: Path) -> None:
    file, network = saved(name, tmp_path)
    model = built(name, file, input_size=0 if name == "vit_tiny" else size)
    weights, own = torch.load(file, weights_only=True), model.state_dict()
    last = list(network.named_modules())[-1][0]
    loaded = {key: value for key, value in weights.items() if not key.startswith(last)}
    assert len(loaded) > 10
    assert all(torch.equal(own[f"body.{key}"], value) for key, value in loaded.items())
    assert len(own) == len(loaded) + 4  # head and normalisation
    assert own["head.weight"].shape == (4, weights[f"{last}.weight"].shape[1])  # a new head, of the data's classes
    x = images()
    with torch.no_grad():
        assert torch.equal(model.features(model.normalise(x)), expected_features(network, x, size))
        grey = images(channels=1)
        assert torch.equal(
            built(name, file, input_size=model.input_size, shape=(1, 12, 12))(grey), model(grey.expand(-1, 3, -1, -1))
        )


def test_the_head_is_drawn_and_the_rest_is_not(tmp_path: Path) -> None:
    file, _ = saved("resnet10", tmp_path)
    one, two = (
        built("resnet10", file),
        build_model("torchvision:resnet10", (3, 12, 12), 4, [0.4] * 3, [0.2] * 3, weights=str(file)),
    )
    assert not torch.equal(one.state_dict()["head.weight"], two.state_dict()["head.weight"])
    assert torch.equal(one.state_dict()["body.conv1.weight"], two.state_dict()["body.conv1.weight"])


def test_a_network_that_raybd_kept_starts_another(tmp_path: Path) -> None:
    kept = built("resnet10", input_size=24)
    torch.save(kept.state_dict(), tmp_path / "kept.pt")
    model = built("resnet10", tmp_path / "kept.pt", input_size=24)
    assert torch.equal(model.mean, kept.mean)
    x = images()
    with torch.no_grad():
        assert torch.equal(model.features(model.normalise(x)), kept.features(kept.normalise(x)))


def test_weights_that_do_not_fit_are_one_error_before_any_work(tmp_path: Path) -> None:
    file, network = saved("resnet10", tmp_path)
    weights = network.state_dict()
    weights["more.weight"] = weights.pop("layer1.0.conv1.weight")
    weights["conv1.weight"] = torch.zeros(8, 3, 7, 7)
    torch.save(weights, file)
    for build in (built, lambda name, where: sketch_model(f"torchvision:{name}", (3, 12, 12), 4, weights=str(where))):
        with pytest.raises(InputError) as error:
            build("resnet10", file)  # type: ignore[operator]
        assert len(error.value.problems) == 1
        said = error.value.problems[0]
        assert said.startswith("the weights are not those of torchvision:resnet10: missing: layer1.0.conv1.weight; ")
        assert "unexpected: more.weight" in said
        assert "of another size: conv1.weight is (8, 3, 7, 7) and should be (64, 3, 7, 7)" in said


def test_files_of_old_versions_lack_counters(tmp_path: Path) -> None:
    file, network = saved("resnet10", tmp_path)
    torch.save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, file)
    assert built("resnet10", file).state_dict()["body.bn1.num_batches_tracked"] == 0


def test_a_transformer_has_the_size_of_its_weights(tmp_path: Path) -> None:
    file, _ = saved("vit_tiny", tmp_path, image_size=24)
    assert built("vit_tiny", file).input_size == 24
    assert built("vit_tiny", input_size=20).input_size == 20  # without weights it may have any multiple of its patches
    with pytest.raises(InputError, match="are for images of 24 pixels"):
        built("vit_tiny", file, input_size=32)
    with pytest.raises(InputError, match="cannot take images of 22x22"):
        built("vit_tiny", input_size=22)


def test_images_are_made_smaller_with_a_filter() -> None:
    """A one-pixel chequerboard becomes its mean, 1/2, where leaving pixels out would keep its black or its white."""
    model = built("resnet10", input_size=4, shape=(3, 12, 12))
    board = (torch.arange(12)[:, None] + torch.arange(12)) % 2
    seen: list[Tensor] = []
    model.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.features(board.expand(1, 3, 12, 12).float())
    assert seen[0].shape == (1, 3, 4, 4)
    assert torch.allclose(seen[0], torch.full_like(seen[0], 0.5), atol=0.1)


def test_what_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def away(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", away)
    with pytest.raises(InputError, match=r"cannot be downloaded here \(<urlopen error no route>\): fetch https://"):
        weights_file("resnet18", "IMAGENET1K_V1")
    with pytest.raises(InputError, match="there is no such file, and torchvision's own of resnet18 are IMAGENET1K_V1"):
        weights_file("resnet18", "IMAGENET1K_V9")
    with pytest.raises(InputError, match="no setting weights, input_size"):
        build_model("small_cnn", (3, 12, 12), 4, [0.4] * 3, [0.2] * 3, weights="x.pth", input_size=24)
    with pytest.raises(InputError, match="svm has no setting weights"):
        ModelConfig(name="svm", C=1.0, weights="x.pth").learner()
    with pytest.raises(InputError, match="has no setting noise"):
        built("squeezenet1_1", noise=0.1)


def test_torchvision_s_own_weights_are_found_where_they_were_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched: list[tuple[str, str]] = []

    def fetch(url: str, target: str, prefix: str, progress: bool) -> None:
        fetched.append((url, prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert weights_file("resnet18", "IMAGENET1K_V1").read_bytes() == b"weights"
    assert fetched == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]


@pytest.mark.parametrize(
    ("name", "kind", "sites"),
    [("vit_tiny", Noise, 2), ("convnext_little", Noise, 2), ("resnet10", NoisyReLU, 4)],
)
def test_noise_has_its_places_in_every_block(name: str, kind: type[nn.Module], sites: int, tmp_path: Path) -> None:
    file, _ = saved(name, tmp_path, **({"image_size": 16} if name == "vit_tiny" else {}))
    size = {} if name == "vit_tiny" else {"input_size": 16}
    noisy, plain = built(name, file, noise=0.3, **size), built(name, file, **size)
    assert sum(isinstance(part, kind) for part in noisy.modules()) == sites
    assert not any(isinstance(part, NoisyReLU | Noise) for part in plain.modules())
    assert name != "resnet10" or type(noisy.body.relu) is nn.ReLU  # the stem's has none
    x = images()
    with torch.no_grad():
        with without_noise():
            assert torch.equal(noisy(x), plain(x))
        assert not torch.equal(noisy.features(noisy.normalise(x)), noisy.features(noisy.normalise(x)))


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_little"])
def test_information_is_measured_in_fine_tuned_networks(name: str, digits: Data, tmp_path: Path) -> None:
    file, _ = saved(name, tmp_path)
    size = 0 if name == "vit_tiny" else 16
    metric = METRICS["mutual_information"](samples=32, passes=8, classes=1)  # type: ignore[call-arg]
    found = []
    for noise in (0.02, 3.0):
        model = ModelConfig(name=f"torchvision:{name}", weights=str(file), input_size=size, noise=noise)
        train = TrainConfig(epochs=1, learning_rate=0.01)
        config = TrialConfig(model=model, train=train, metrics=(metric,), poison_rate=0.1)
        found.append(run_trial(config, digits).metrics["mi/xt/backdoor"])
    assert found[1] < found[0] <= math.log(32) + 1e-3  # nats: the ceiling is log N
    assert found[1] < 0.5


def test_the_key_is_of_the_content_of_the_weights(digits: Data, tmp_path: Path) -> None:
    file, _ = saved("resnet10", tmp_path)
    config = TrialConfig(
        fingerprint=digits.fingerprint, model=ModelConfig(name="torchvision:resnet10", weights=str(file), input_size=16)
    )

    def key(config: TrialConfig) -> str:
        return with_contents([config], {config.image_set: digits})[0].key

    first = key(config)
    moved = file.rename(tmp_path / "elsewhere.pth")
    assert key(replace(config, model=replace(config.model, weights=str(moved)))) == first
    (tmp_path / "new").mkdir()
    other, _ = saved("resnet10", tmp_path / "new", seed=2)
    assert key(replace(config, model=replace(config.model, weights=str(other)))) != first
    (known,) = with_contents(
        [replace(config, model=replace(config.model, weights=str(moved)))], {config.image_set: digits}
    )
    assert known.params["model.weights.content"]
    assert TrialConfig.from_dict(known.to_dict()) == known
    other.rename(moved)
    with pytest.raises(InputError, match=r"elsewhere\.pth has changed since the trial was planned \(model\.weights\)"):
        run_trial(replace(known, train=TrainConfig(epochs=1)), digits)
    plain = TrialConfig(model=ModelConfig(name="torchvision:resnet18"))
    assert "weights" not in plain.to_dict()["model"]  # trials without have the keys that they had


def test_the_preset_fine_tunes() -> None:
    trials = expand(PRESETS["finetune"])
    assert {trial.model.weights for trial in trials} == {"IMAGENET1K_V1"}
    assert {trial.model.name for trial in trials} == {"torchvision:resnet18"}
    assert {trial.train.learning_rate for trial in trials} == {0.01}
    given = PRESETS["finetune"].replace(weights="my.pth", input_size=64)
    assert {(trial.model.weights, trial.model.input_size) for trial in expand(given)} == {("my.pth", 64)}
