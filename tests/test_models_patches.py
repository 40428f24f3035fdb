"""Patches of torchvision's DenseNet, ViT and ConvNeXt for small images: by hand, pruned, refused."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer

from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.models import build_model, sketch_model
from raybd.models.base import Classifier
from raybd.models.noise import NoisyReLU, without_noise
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data

SIZE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}


def tiny_vit(*, weights: None = None, image_size: int = 24, patch_size: int = 8, **more: Any) -> VisionTransformer:
    return VisionTransformer(image_size=image_size, patch_size=patch_size, **SIZE, **more)


def tiny_convnext(*, weights: None = None, **more: Any) -> ConvNeXt:
    return ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], **more)


def tiny_densenet(*, weights: None = None, **more: Any) -> DenseNet:
    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, **more)


TINY = {"vit_tiny": tiny_vit, "convnext_little": tiny_convnext, "densenet_little": tiny_densenet}
FIRST = {"vit_tiny": "conv_proj", "convnext_little": "features.0.0", "densenet_little": "features.pool0"}


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    models = torchvision.models
    known, get = models.list_models(module=models), models.get_model
    monkeypatch.setattr(models, "list_models", lambda **_: [*known, *TINY])
    monkeypatch.setattr(
        models, "get_model", lambda name, **more: TINY[name](**more) if name in TINY else get(name, **more)
    )


def built(name: str, side: int = 16, **settings: Any) -> Classifier:
    torch.manual_seed(0)
    made = build_model(f"torchvision:{name}", (3, side, side), 4, [0.4] * 3, [0.2] * 3, **settings)
    return cast("Classifier", made.eval())


def images(side: int = 16, count: int = 3) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
@pytest.mark.parametrize(("name", "patch"), [(name, patch) for name in TINY for patch in (1, 2, 4)])
def test_so_many_pixels_are_one_position_of_the_first_map(name: str, patch: int) -> None:
    model, seen = built(name, patch_size=patch), list[Tensor]()
    model.body.get_submodule(FIRST[name]).register_forward_hook(lambda module, inputs, out: seen.append(out))
    x = images()
    assert model(x).shape == (3, 4)
    assert seen[0].shape[2:] == (16 // patch, 16 // patch)


@torch.no_grad()
def test_a_transformer_is_torchvision_s_own_of_those_patches() -> None:
    model, reference = built("vit_tiny", patch_size=4), tiny_vit(image_size=16, patch_size=4, num_classes=4).eval()
    state = dict(model.body.state_dict())
    reference.load_state_dict(state | {f"heads.head.{key}": value for key, value in model.head.state_dict().items()})
    x = images()
    assert torch.equal(model(x), reference(model.normalise(x)))
    assert model.body.get_submodule("conv_proj").weight.std() == pytest.approx((3 * 16) ** -0.5, rel=0.1)  # type: ignore[operator]


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2])
def test_convnext_s_patches_are_a_matrix_on_each_square(patch: int) -> None:
    body, x = built("convnext_little", patch_size=patch).body, images()
    layer = cast("nn.Conv2d", body.get_submodule("features.0.0"))
    squares = F.unfold(x, patch, stride=patch)
    expected = layer.weight.flatten(1) @ squares + layer.bias[:, None]  # type: ignore[index]
    torch.testing.assert_close(layer(x).flatten(2), expected)
    assert layer.weight.std() == pytest.approx(0.02, rel=0.3)


@torch.no_grad()
def test_as_published_is_the_same_to_the_bit() -> None:
    x = images(32)
    assert torch.equal(built("densenet_little", 32, patch_size=4)(x), built("densenet_little", 32)(x))
    assert built("vit_tiny", 32, patch_size=8).body.get_submodule("conv_proj").weight.shape[2] == 8  # type: ignore[index]
    assert built("vit_tiny", 32).input_size == 224  # without: images are made as large as is published
    assert built("vit_tiny", 30, patch_size=4, input_size=12).input_size == 12


@pytest.mark.parametrize(
    ("name", "patches"), [("densenet121", (1, 2)), ("vit_b_16", (4, 8)), ("convnext_tiny", (1, 2))]
)
def test_the_published_networks_take_32_and_64_pixels(name: str, patches: tuple[int, int]) -> None:
    for side, patch in zip((32, 64), patches, strict=True):
        model = sketch_model(f"torchvision:{name}", (3, side, side), 10, patch_size=patch)
        assert isinstance(model, Classifier)
        with torch.device("meta"):
            assert model(torch.zeros(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("torchvision:resnet18", {"patch_size": 2}, r"has no setting patch_size \(vit_, convnext and densenet have\)"),
        ("torchvision:densenet_little", {"patch_size": 3}, "patches of torchvision:densenet_little are 1, 2 or 4"),
        ("torchvision:vit_tiny", {"patch_size": 5}, "patches of 5 pixels do not fill images of 16x16"),
        ("torchvision:vit_tiny", {"patch_size": -1}, "must not be negative"),
        ("torchvision:convnext_little", {"patch_size": 32}, "cannot take an image"),
        ("torchvision:convnext_tiny", {"patch_size": 2, "weights": "x.pth"}, "leave --patch-size out"),
        ("small_cnn", {"patch_size": 2}, "no setting patch_size"),
    ],
)
def test_refusals(name: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        build_model(name, (3, 16, 16), 4, [0.4] * 3, [0.2] * 3, **settings)


@torch.no_grad()
def test_densenet_s_noise_is_after_every_relu_but_the_stem_s() -> None:
    noisy, plain = built("densenet_little", patch_size=1, noise=0.3), built("densenet_little", patch_size=1)
    relus = sum(isinstance(part, nn.ReLU) for part in plain.modules())
    assert sum(isinstance(part, NoisyReLU) for part in noisy.modules()) == relus - 1 == 9
    assert type(noisy.body.get_submodule("features.relu0")) is nn.ReLU
    x = images()
    with without_noise():
        assert torch.equal(noisy(x), plain(x))
    z = noisy.normalise(x)
    assert (noisy.features(z) != noisy.features(z)).any(0).float().mean() > 0.5


PRUNED = {
    ("densenet_little", "fine_pruning"): "",
    ("densenet_little", "clp"): "",
    ("densenet_little", "anp"): "",
    ("vit_tiny", "fine_pruning"): "",
    ("vit_tiny", "clp"): "convolutions that batch norms follow",
    ("vit_tiny", "anp"): "batch norms that have scales",
    ("convnext_little", "fine_pruning"): "",
    ("convnext_little", "clp"): "convolutions that batch norms follow",
    ("convnext_little", "anp"): "batch norms that have scales",
}


@pytest.mark.parametrize(("name", "defence"), PRUNED)
def test_each_trains_and_is_pruned_or_refused_with_the_reason(name: str, defence: str, digits: Data) -> None:
    repair = DEFENCES[defence](**({} if defence == "clp" else {"steps": 2}))
    config = TrialConfig(
        model=ModelConfig(name=f"torchvision:{name}", patch_size=1 if "vit" not in name else 2),
        train=TrainConfig(epochs=1, learning_rate=0.01),
        defence=repair,
        validation=0.06,
        poison_rate=0.05,
    )
    if why := PRUNED[name, defence]:
        with pytest.raises(InputError, match=why):
            run_trial(config, digits)
    else:
        found = run_trial(config, digits).metrics
        assert 0 <= found["defence/pruned"] < 1
        assert found["accuracy/clean"] > 0.05


def test_patches_are_in_the_key_where_they_are_asked_for() -> None:
    plain = TrialConfig(model=ModelConfig(name="torchvision:densenet121"))
    assert "patch_size" not in plain.to_dict()["model"]
    patched = TrialConfig(model=ModelConfig(name="torchvision:densenet121", patch_size=1))
    assert TrialConfig.from_dict(patched.to_dict()) == patched
    assert plain.key != patched.key
    assert "patch_size=1" in patched.label
