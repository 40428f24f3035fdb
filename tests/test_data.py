"""Names, digits, fingerprints, moments and splits."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import raybd.data
from raybd.data.describe import STD_FLOOR, fingerprint, mean_std
from raybd.data.reader import RawData
from raybd.errors import InputError
from raybd.types import Images

NAMES = ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "gtsrb", "svhn", "npz", "folder"]


def _images(counts, seed=0):
    y = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    x = torch.arange(len(y)).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2) % 256  # the pixel is the index
    return Images(x.to(torch.uint8).contiguous(), y)


def test_table_holds_exactly_the_nine_sources():
    assert list(raybd.data.DATASETS) == NAMES


@pytest.mark.parametrize("name", [*NAMES[:7], "npz:a.npz", "folder:/b", "npz:c:d.npz"])
def test_check_name_accepts(name):
    assert raybd.data.check_name(name) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar01", ["unknown data set: cifar01", "svhn", "did you mean cifar10?"]),
        ("", ["unknown data set", "digits"]),
        ("npz", ["npz needs a path: npz:PATH"]),
        ("folder:", ["folder needs a path: folder:PATH"]),
        ("mnist:/x", ["mnist takes no path", "'mnist:/x'"]),
    ],
)
def test_check_name_and_load_refuse(name, said):
    problems = raybd.data.check_name(name)
    assert len(problems) == 1
    assert all(part in problems[0] for part in said)
    with pytest.raises(InputError) as caught:
        raybd.data.load(name)
    assert caught.value.problems == problems


def test_data_root_prefers_argument_then_environment_then_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAYBD_DATA", raising=False)
    assert raybd.data.data_root() == tmp_path / ".cache/raybd/data"
    monkeypatch.setenv("RAYBD_DATA", "~/sets")
    assert raybd.data.data_root() == tmp_path / "sets"
    assert raybd.data.data_root("/elsewhere").as_posix() == "/elsewhere"


def test_augmentation():
    assert raybd.data.augmentation("cifar10") == raybd.data.augmentation("cifar100") == (4, True)
    assert raybd.data.augmentation("gtsrb") == raybd.data.augmentation("svhn") == (4, False)
    for name in ("digits", "mnist", "fashion_mnist", "npz:x.npz", "folder:y"):
        assert raybd.data.augmentation(name) == (0, False)


def test_digits_are_scikit_learns_when_they_are_read_and_when_they_come_from_the_cache(tmp_path):
    from sklearn.datasets import load_digits

    data = raybd.data.load("digits", tmp_path)
    assert (len(data.train), len(data.test), data.train.shape) == (1297, 500, (1, 8, 8))
    assert data.classes == tuple("0123456789")
    bunch = load_digits()
    scaled = np.round(bunch.images / 16 * 255).astype(np.uint8).reshape(-1, 64)
    want = sorted(bytes(row) + bytes([label]) for row, label in zip(scaled, bunch.target, strict=True))
    both = [*zip(data.train.x, data.train.y, strict=True), *zip(data.test.x, data.test.y, strict=True)]
    assert sorted(x.numpy().tobytes() + bytes([int(y)]) for x, y in both) == want
    shares = np.bincount(data.test.y.numpy()) / np.bincount(bunch.target)
    assert np.abs(shares - 500 / 1797).max() < 0.004  # stratified: within an image of each class's share
    again = raybd.data.load("digits", tmp_path)
    assert torch.equal(again.train.x, data.train.x)
    assert again.fingerprint == data.fingerprint == "418e4c81bed6d204"
    assert raybd.data.load("digits").fingerprint == data.fingerprint


def test_a_name_is_checked_without_a_reader_s_library_and_digits_once_cached_are_read_without(tmp_path):
    raybd.data.load("digits", tmp_path)
    code = f"""
import sys, raybd.data
raybd.data.check_name("cifar10")
print([m for m in ("torchvision", "sklearn", "PIL", "scipy") if m in sys.modules])
raybd.data.load("digits", {str(tmp_path)!r})
print("sklearn" in sys.modules)
raybd.data.load("digits", {str(tmp_path / "new")!r})
print("sklearn" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "False", "True"]


def test_fingerprint_sees_each_pixel_label_order_and_half_but_no_name():
    train, test = _images([3, 3]), _images([2, 2], seed=1)
    base = fingerprint(RawData(train, test, ("a", "b")))
    assert len(base) == 16
    assert fingerprint(RawData(train, test, ("c", "d"))) == base
    pixel, label = train.x.clone(), test.y.clone()
    pixel[2, 0, 0, 1] += 1
    label[0] = 1 - label[0]
    reordered = train.take(torch.tensor([1, 0, 2, 3, 4, 5]))
    reshaped = Images(train.x.reshape(6, 1, 2, 1), train.y)
    others = [
        RawData(Images(pixel, train.y), test, ()),
        RawData(train, Images(test.x, label), ()),
        RawData(reordered, test, ()),
        RawData(reshaped, test, ()),
        RawData(test, train, ()),
    ]
    assert len({base, *(fingerprint(other) for other in others)}) == 6


def test_mean_and_deviation_equal_numpys_and_a_flat_channel_has_the_floor():
    x = torch.randint(0, 256, (50, 3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[:, 2] = 51
    mean, std = mean_std(x)
    unit = x.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], unit.std((0, 2, 3))[:2], rtol=1e-12)
    assert mean[2] == pytest.approx(0.2, rel=1e-14)
    assert std[2] == STD_FLOOR == 1e-3


def test_split_is_exact_in_each_class_disjoint_whole_and_in_order():
    images = _images([100, 25, 10, 3])
    train, held = raybd.data.split_validation(images, 0.1, seed=7)
    assert torch.bincount(held.y).tolist() == [10, 2, 1, 1]  # round(2.5) is 2, round(0.3) is raised to 1
    assert torch.bincount(train.y).tolist() == [90, 23, 9, 2]
    kept, taken = train.x[:, 0, 0, 0].tolist(), held.x[:, 0, 0, 0].tolist()
    assert kept == sorted(kept)
    assert taken == sorted(taken)
    assert sorted(kept + taken) == list(range(138))
    assert torch.equal(images.y[kept], train.y)
    assert torch.equal(images.y[taken], held.y)


def test_split_depends_on_the_seed_alone():
    images = _images([50, 50])
    first, again, other = (raybd.data.split_validation(images, 0.2, seed)[1].x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.5, -0.1, float("nan")])
def test_split_refuses_fractions_outside_zero_to_one(fraction):
    with pytest.raises(InputError, match=f"validation fraction is {fraction}: it must be above 0 and below 1"):
        raybd.data.split_validation(_images([5, 5]), fraction, seed=0)


def test_split_refuses_to_empty_a_class():
    with pytest.raises(InputError, match=r"fraction 0.5 leaves no training image of class 1 \(1\), class 2 \(1\)"):
        raybd.data.split_validation(_images([8, 1, 1]), 0.5, seed=0)
