"""Frozen features: from an encoder, from torchvision, from the user's own function and from files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import models

from raybd.errors import InputError
from raybd.pretraining import embed, extractor, fingerprint, frozen_features
from raybd.pretraining.extractors import MEAN, STD
from tests.conftest import made_images
from tests.test_pretraining import fresh

X = made_images(20, (3, 40, 36)).x
NET = "torchvision:resnet18"


@pytest.fixture(name="weights", scope="module")
def _weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as a user has it, with its last layer."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(models.resnet18(num_classes=7).state_dict(), file)
    return file


@pytest.fixture(name="module")
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of the user's, that counts its calls."""
    name = f"own_features_{abs(hash(request.node.name))}"
    text = (
        "import torch\ncalls = []\n"
        "def means(x):\n    calls.append(len(x))\n    return x.double().mean((2, 3))\n"
        "def rows(x):\n    return x.float().mean((1, 2, 3))\n"
        "def endless(x):\n    return x.float().mean((2, 3)) / 0\n"
        "def fails(x):\n    raise ValueError('no luck')\n"
    )
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_encoder_s_features_are_what_its_head_reads() -> None:
    model, images = fresh(), made_images(700)
    features = frozen_features(model, images.x)
    assert (features.shape, features.dtype) == ((700, 32), torch.float32)
    logits = model.eval()(images.x.float() / 255)
    torch.testing.assert_close(model.head(features), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed(model, images.x[:3]), features[:3], rtol=1e-5, atol=1e-6)
    assert not features.requires_grad
    assert not features.is_inference()


@pytest.mark.parametrize("side", [None, 36])
def test_torchvision_s_features_are_what_its_last_layer_reads(weights: Path, side: int | None) -> None:
    net = models.resnet18(num_classes=7)
    net.load_state_dict(torch.load(weights))
    net.eval().fc = torch.nn.Identity()  # type: ignore[assignment]
    published = models.ResNet18_Weights.DEFAULT.transforms().crop_size[0]
    size = [side or published] * 2
    small = torch.nn.functional.interpolate(X[:4].float() / 255, size, mode="bilinear", antialias=True)
    unit = (small - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = net(unit)
    torch.testing.assert_close(frozen_features(NET, X[:4], weights=str(weights), side=side), expected)


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one = frozen_features(NET, X, weights="random", seed=3)
    assert one.shape == (20, 512)
    assert torch.equal(one, frozen_features(NET, X, weights="random", seed=3))
    assert not torch.equal(one, frozen_features(NET, X, weights="random", seed=4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_grey_images_are_repeated() -> None:
    grey = made_images(4, (1, 32, 32)).x
    function = extractor(NET, weights="random")
    assert torch.equal(embed(function, grey), embed(function, grey.expand(-1, 3, -1, -1)))


def test_without_weights_it_says_how_to_get_them() -> None:
    with pytest.raises(InputError, match=r"none are downloaded(.|\n)*get_model_weights\('resnet18'\)(.|\n)*'random'"):
        frozen_features(NET, X)


def test_weights_of_another_network_or_no_file_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no weights of torchvision:resnet34: it lacks layer1.2"):
        extractor("torchvision:resnet34", weights=str(weights))
    with pytest.raises(InputError, match="size mismatch"):
        extractor("torchvision:resnet50", weights=str(weights))
    with pytest.raises(InputError, match="cannot be used"):
        extractor(NET, weights=str(tmp_path / "absent.pt"))
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Path.cwd))
    with pytest.raises(InputError, match="cannot be used"):
        extractor(NET, weights=str(tmp_path / "code.pt"))
    with pytest.raises(InputError, match="unknown torchvision model"):
        extractor("torchvision:resnet19", weights="random")
    with pytest.raises(InputError, match="features come from"):
        extractor("resnet18")


def test_the_user_s_own_function(module: str) -> None:
    features = frozen_features(f"{module}:means", X)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, X.double().mean((2, 3)).float())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("rows", r"must return \(20, D\)"),
        ("endless", "20 of 20 rows are not"),
        ("fails", "no luck"),
        ("calls", "no function"),
        ("absent", "cannot be imported"),
    ],
)
def test_functions_that_are_of_no_use_are_refused(module: str, function: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        frozen_features(f"{module}:{function}", X)


def test_features_are_computed_once_for_each_set_of_images(module: str, tmp_path: Path) -> None:
    from importlib import import_module

    calls = import_module(module).calls
    first = frozen_features(f"{module}:means", X, cache_folder=tmp_path)
    again = frozen_features(f"{module}:means", X.clone(), cache_folder=tmp_path)
    assert torch.equal(first, again)
    assert len(calls) == 1
    frozen_features(f"{module}:means", X.flip(0), cache_folder=tmp_path)
    assert len(calls) == 2


def test_features_of_other_weights_are_others(tmp_path: Path) -> None:
    images = made_images(20).x
    one, other = fresh(), fresh(seed=1)
    for model in (one, other, one):
        assert torch.equal(frozen_features(model, images, cache_folder=tmp_path), embed(model, images))
    assert len(list((tmp_path / "features").glob("*.pt"))) == 2


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6))


def test_rows_from_files(tmp_path: Path) -> None:
    train, test, triggered = made_images(12).x, made_images(7, seed=1).x, made_images(7, seed=2).x
    np.save(tmp_path / "train.npy", rows(12))
    expected = torch.from_numpy(rows(12).astype(np.float32))
    assert torch.equal(frozen_features(str(tmp_path / "train.npy"), train), expected)
    named = {fingerprint(triggered): rows(7, 2), "train": rows(12), "test": rows(7, 1)}
    np.savez(tmp_path / "all.npz", **named)
    assert torch.equal(frozen_features(str(tmp_path / "all.npz"), train), expected)
    held = frozen_features(str(tmp_path / "all.npz"), triggered)
    assert torch.equal(held, torch.from_numpy(rows(7, 2).astype(np.float32)))
    with pytest.raises(InputError, match=rf"one array of 7 rows, or one called {fingerprint(test)}"):
        frozen_features(str(tmp_path / "all.npz"), test)  # two have its length


def spoilt(value: float) -> np.ndarray:
    table = rows(12)
    table[3, 2] = value
    return table


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(11), "one array of 12 rows"),
        (rows(12)[:, 0], r"must be \(12, D\)"),
        (rows(12)[:, :, None], r"must be \(12, D\)"),
        (spoilt(np.nan), "1 of 12 rows are not"),
        (spoilt(np.inf), "1 of 12 rows are not"),
        (np.array([{}] * 12), "cannot be read"),
        (np.array([["a"]] * 12), "must be numbers"),
        (np.array(3.0), "one array of 12 rows"),
    ],
)
def test_files_that_are_of_no_use_are_refused(table: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", table)
    with pytest.raises(InputError, match=said):
        frozen_features(str(tmp_path / "features.npy"), made_images(12).x)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        frozen_features(str(tmp_path / "absent.npz"), made_images(12).x)


def test_work_is_heard_of(module: str) -> None:
    heartbeats: list[Tensor] = []
    images = made_images(600).x
    frozen_features(f"{module}:means", images, heartbeat=lambda: heartbeats.append(images))
    assert len(heartbeats) == 3
