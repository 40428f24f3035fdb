"""torchvision's sets, from small files made in its layouts."""

import csv
import dataclasses
import gzip
import hashlib
import pickle
import socket
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets

import raybd.data
from raybd.data.torchvision_sets import GTSRB, TIMEOUT
from raybd.errors import InputError

RNG = np.random.default_rng(0)
TEN = np.arange(10)


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """No test reaches a network: every download fails, and is noted with the time limit it ran under."""
    tried = []

    def fail(*args, **kwargs):
        tried.append(socket.getdefaulttimeout())
        raise URLError("no network")

    for module in (datasets.mnist, datasets.cifar, datasets.gtsrb):
        monkeypatch.setattr(module, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.svhn, "download_url", fail)
    return tried


def _random(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _idx(array):
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _write_mnist(root, kind="MNIST", pack=True):
    arrays = {
        "train-images-idx3": _random(12, 28, 28),
        "train-labels-idx1": np.r_[TEN[::-1], 3, 3].astype(np.uint8),
        "t10k-images-idx3": _random(3, 28, 28),
        "t10k-labels-idx1": np.array([7, 7, 0], dtype=np.uint8),
    }
    (root / kind / "raw").mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        path = root / kind / "raw" / f"{name}-ubyte"
        content = _idx(array)
        path = path.with_name(f"{path.name}.gz") if pack else path
        path.write_bytes(gzip.compress(content) if pack else content)
    return list(arrays.values())


def _write_cifar(monkeypatch, root, cls, folder, batches, entries, meta):
    """Pickles in CIFAR's layout, with their sums put in place of the originals' in torchvision's class."""
    (root / folder).mkdir()
    sums = {}
    for name, entry in {**dict(zip(batches, entries, strict=True)), cls.meta["filename"]: meta}.items():
        content = pickle.dumps(entry, protocol=2)
        (root / folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cls, "train_list", [[name, sums[name]] for name in batches[:-1]])
    monkeypatch.setattr(cls, "test_list", [[batches[-1], sums[batches[-1]]]])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": sums[cls.meta["filename"]]})


def _write_cifar10(monkeypatch, root):
    pixels = _random(6, 10, 3, 32, 32)
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    entries = [{"data": x.reshape(10, 3072), "labels": np.roll(TEN, i).tolist()} for i, x in enumerate(pixels)]
    meta = {"label_names": [f"thing {label}" for label in TEN]}
    _write_cifar(monkeypatch, root, datasets.CIFAR10, "cifar-10-batches-py", batches, entries, meta)
    return pixels


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_packed_or_not(root, name, kind, pack, downloads):
    x_train, y_train, x_test, y_test = _write_mnist(root, kind, pack)
    data = raybd.data.load(name, root)
    assert np.array_equal(data.train.x.numpy(), x_train[:, None])
    assert np.array_equal(data.test.x.numpy(), x_test[:, None])
    assert data.train.y.tolist() == y_train.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 3, 3]
    assert data.test.y.tolist() == y_test.tolist()
    names = datasets.FashionMNIST.classes if name == "fashion_mnist" else "0123456789"
    assert data.classes == tuple(names)
    assert downloads == []
    assert sorted(path.name for path in (root / kind).iterdir()) == ["raw"]  # nothing unpacked beside


def test_npz_of_mnist_has_mnists_fingerprint(root, tmp_path):
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "same.npz", **dict(zip(keys, _write_mnist(root), strict=True)))
    same = raybd.data.load(f"npz:{tmp_path / 'same.npz'}", root)
    assert same.fingerprint == raybd.data.load("mnist", root).fingerprint


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: gzip.compress(whole)[:-100], "Compressed file ended"),
        (lambda whole: gzip.compress(whole[:-1]), "cannot reshape"),
        (lambda whole: gzip.compress(b"<html>" + whole), "is not an idx file of 3 axes"),
        (lambda whole: b"<html>", "Not a gzipped file"),
    ],
)
def test_damaged_idx_files(root, damage, said):
    x_train = _write_mnist(root)[0]
    (root / "MNIST/raw/train-images-idx3-ubyte.gz").write_bytes(damage(_idx(x_train)))
    with pytest.raises(InputError, match=f"MNIST: files under .* are corrupt or not the originals .*{said}"):
        raybd.data.load("mnist", root)


def test_cifar10_pickles(root, monkeypatch):
    pixels = _write_cifar10(monkeypatch, root)
    data = raybd.data.load("cifar10", root)
    assert np.array_equal(data.train.x.numpy(), pixels[:5].reshape(50, 3, 32, 32))
    assert np.array_equal(data.test.x.numpy(), pixels[5])
    assert data.train.y.tolist() == [(label - batch) % 10 for batch in range(5) for label in range(10)]
    assert data.test.y.tolist() == np.roll(TEN, 5).tolist()
    assert data.classes == tuple(f"thing {label}" for label in TEN)


def test_cifar100_has_its_fine_labels(root, monkeypatch):
    pixels, fine = _random(2, 100, 3, 32, 32), np.arange(100)
    entries = [
        {"data": x.reshape(100, 3072), "fine_labels": np.roll(fine, shift).tolist(), "coarse_labels": [0] * 100}
        for x, shift in zip(pixels, (1, 2), strict=True)
    ]
    meta = {"fine_label_names": [f"fine {label}" for label in fine]}
    _write_cifar(monkeypatch, root, datasets.CIFAR100, "cifar-100-python", ["train", "test"], entries, meta)
    data = raybd.data.load("cifar100", root)
    assert np.array_equal(data.train.x.numpy(), pixels[0])
    assert data.test.y.tolist() == np.roll(fine, 2).tolist()
    assert data.classes[99] == "fine 99"


def test_cifar_that_is_not_the_original_is_refused_and_not_fetched_over(root, monkeypatch, downloads):
    _write_cifar10(monkeypatch, root)
    batch = root / "cifar-10-batches-py/data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"!")
    said = r"CIFAR10: files under .* are corrupt or not the originals .*cifar-10-batches-py/data_batch_3"
    with pytest.raises(InputError, match=said):
        raybd.data.load("cifar10", root)
    assert downloads == []


def test_svhn_has_label_0_for_the_digit_0(root, monkeypatch):
    pixels = {"train": _random(32, 32, 3, 11), "test": _random(32, 32, 3, 2)}
    labels = {"train": np.r_[1:11, 10], "test": np.array([10, 4])}
    lists = dict(datasets.SVHN.split_list)
    for half, x in pixels.items():
        file = root / f"{half}_32x32.mat"
        scipy.io.savemat(file, {"X": x, "y": labels[half].astype(np.uint8)[:, None]})
        lists[half] = [*lists[half][:2], hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = raybd.data.load("svhn", root)
    assert np.array_equal(data.train.x.numpy(), pixels["train"].transpose(3, 2, 0, 1))
    assert data.train.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]
    assert data.test.y.tolist() == [0, 4]


def _write_gtsrb(root):
    """One training image for each of 43 signs, two test images; sizes differ."""
    base = root / "gtsrb"
    images = {}
    for sign in range(43):
        images[f"GTSRB/Training/{sign:05d}/00000.ppm"] = _random(20 + sign, 40, 3)
    rows = [("00000.ppm", 5), ("00001.ppm", 42)]
    for name, _ in rows:
        images[f"GTSRB/Final_Test/Images/{name}"] = _random(32, 32, 3)
    for name, pixels in images.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(base / name)
    with (base / "GT-final_test.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("Filename", "ClassId"), *rows])
    return images


@pytest.fixture
def few_signs(monkeypatch):
    """Only the two test images and 43 training images that these tests make are wanted of GTSRB."""
    small = dataclasses.replace(GTSRB, counts={"train": 43, "test": 2})
    monkeypatch.setitem(raybd.data.DATASETS, "gtsrb", small)


def test_a_partly_extracted_gtsrb_is_refused_and_read_when_it_is_whole(root, monkeypatch, few_signs):
    _write_gtsrb(root)
    image = root / "gtsrb/GTSRB/Training/00007/00000.ppm"
    extra = [image.with_name(f"0000{n}.ppm") for n in (1, 2)]
    whole = dataclasses.replace(GTSRB, counts={"train": 45, "test": 2})
    monkeypatch.setitem(raybd.data.DATASETS, "gtsrb", whole)
    with pytest.raises(InputError, match="43 train images under .* of 45 that were published"):
        raybd.data.load("gtsrb", root)
    for path in extra:
        path.write_bytes(image.read_bytes())
    assert raybd.data.load("gtsrb", root).train.y.tolist().count(7) == 3


def test_an_image_added_deep_below_a_folder_changes_the_stamp(root):
    _write_gtsrb(root)
    before = GTSRB.stamp(root)
    image = root / "gtsrb/GTSRB/Training/00007/00000.ppm"
    image.with_name("00001.ppm").write_bytes(image.read_bytes())
    assert GTSRB.stamp(root) != before


def test_the_published_counts_of_gtsrb(root):
    _write_gtsrb(root)
    with pytest.raises(InputError, match=r"43 train images .* of 26640"):
        raybd.data.load("gtsrb", root)


def test_gtsrb_is_resized_and_images_of_the_size_are_not_touched(root, few_signs):
    images = _write_gtsrb(root)
    data = raybd.data.load("gtsrb", root)
    assert data.train.y.tolist() == list(range(43))
    assert data.test.y.tolist() == [5, 42]
    assert data.classes == tuple(str(sign) for sign in range(43))
    exact = np.stack([images[f"GTSRB/Final_Test/Images/0000{n}.ppm"] for n in (0, 1)]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.x.numpy(), exact)
    for sign in (0, 12, 42):  # the same by torch's own kernel, which rounds at another place
        x = torch.from_numpy(images[f"GTSRB/Training/{sign:05d}/00000.ppm"]).permute(2, 0, 1)[None].float()
        want = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        assert (data.train.x[sign] - want[0]).abs().max() <= 1.01


def test_gtsrb_with_an_image_missing_is_refused(root, few_signs):
    _write_gtsrb(root)
    (root / "gtsrb/GTSRB/Final_Test/Images/00001.ppm").unlink()
    with pytest.raises(InputError, match=r"GTSRB: files .* corrupt .*00001.ppm"):
        raybd.data.load("gtsrb", root)


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("mnist", "MNIST", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("fashion_mnist", "FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "CIFAR10", "cifar-10-batches-py/data_batch_5"),
        ("cifar100", "CIFAR100", "cifar-100-python/meta"),
        ("gtsrb", "GTSRB", "gtsrb/GT-final_test.csv"),
        ("svhn", "SVHN", "test_32x32.mat"),
    ],
)
def test_offline_error_names_root_files_and_cure(root, name, kind, file, downloads):
    with pytest.raises(InputError) as caught:
        raybd.data.load(name, root)
    [problem] = caught.value.problems
    half = "split='train'" if name in ("gtsrb", "svhn") else "train=True"
    recipe = f"import torchvision.datasets as d; d.{kind}('{root}', {half}, download=True)"
    for part in (f"{kind}: missing under the data root {root}", file, "the download failed", recipe, "RAYBD_DATA"):
        assert part in problem
    assert "no network" in problem
    assert set(downloads) == {TIMEOUT}
    assert socket.getdefaulttimeout() is None


def test_only_what_is_missing_is_named(root):
    _write_mnist(root)
    (root / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"MNIST: missing under .*: MNIST/raw/t10k-labels-idx1-ubyte; the"):
        raybd.data.load("mnist", root)


def test_what_a_download_brings_is_read_and_then_cached(root, monkeypatch):
    made = []
    monkeypatch.setattr(
        datasets.mnist,
        "download_and_extract_archive",
        lambda *a, **k: made or made.extend(_write_mnist(root, pack=False)),
    )
    data = raybd.data.load("mnist", root)
    assert np.array_equal(data.train.x.numpy(), made[0][:, None])
    monkeypatch.setattr(type(raybd.data.DATASETS["mnist"]), "read", None)
    assert raybd.data.load("mnist", root).fingerprint == data.fingerprint
    for file in (root / "MNIST/raw").iterdir():
        file.unlink()
    assert raybd.data.load("mnist", root).fingerprint == data.fingerprint  # the cache stands for its source


def test_replaced_files_are_read_again(root):
    _write_mnist(root)
    before = raybd.data.load("mnist", root)
    x_train = _write_mnist(root)[0]
    after = raybd.data.load("mnist", root)
    assert np.array_equal(after.train.x.numpy(), x_train[:, None])
    assert after.fingerprint != before.fingerprint


def test_read_only_root_is_not_touched_and_not_downloaded_to(root, downloads):
    root.chmod(0o555)
    try:
        with pytest.raises(InputError, match="the root cannot be written to, so no download was tried"):
            raybd.data.load("cifar10", root)
        assert downloads == []
        assert list(root.iterdir()) == []
    finally:
        root.chmod(0o755)
