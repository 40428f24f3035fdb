"""Arrays in .npz files: layouts, checks, cache."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch

import raybd.data
from raybd.data import npz_headers
from raybd.errors import InputError

RNG = np.random.default_rng(0)
GOOD = {
    "x_train": RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": RNG.integers(0, 256, (3, 5, 4), dtype=np.uint8),
    "y_test": np.array([2, 1, 0]),
}


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def load(tmp_path):
    """Write GOOD with changes (None leaves a key out) and load it."""

    def write_and_load(**changes):
        arrays = {key: value for key, value in (GOOD | changes).items() if value is not None}
        np.savez(tmp_path / "set.npz", **arrays)
        return raybd.data.load(f"npz:{tmp_path / 'set.npz'}", tmp_path / "root")

    return write_and_load


def _problems(load, **changes):
    with pytest.raises(InputError) as caught:
        load(**changes)
    assert all("set.npz: " in problem for problem in caught.value.problems)
    return [problem.split("set.npz: ", 1)[1] for problem in caught.value.problems]


def test_grey_images_get_a_channel(load):
    data = load()
    assert np.array_equal(data.train.x.numpy(), GOOD["x_train"][:, None])
    assert np.array_equal(data.test.x.numpy(), GOOD["x_test"][:, None])
    assert data.train.y.tolist() == GOOD["y_train"].tolist()
    assert data.test.y.tolist() == [2, 1, 0]
    assert data.classes == ("0", "1", "2")
    assert data.mean[0] == pytest.approx(GOOD["x_train"].mean() / 255)
    assert data.validation is None


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_and_first_are_the_same_data(load, channels):
    last = {
        half: RNG.integers(0, 256, (n, 5, 4, channels), dtype=np.uint8) for half, n in (("x_train", 6), ("x_test", 3))
    }
    first = {half: x.transpose(0, 3, 1, 2) for half, x in last.items()}
    one, other = load(**last), load(**first)
    assert np.array_equal(one.train.x.numpy(), first["x_train"])
    assert torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.test.x, other.test.x)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("names", [["cat", "dog", "owl"], [b"cat", b"dog", b"owl"]])
def test_class_names_and_small_label_types(load, names):
    data = load(classes=np.array(names), y_train=GOOD["y_train"].astype(np.uint8))
    assert data.classes == ("cat", "dog", "owl")
    assert data.train.y.dtype == torch.int64


def test_relative_path_starts_at_the_working_directory(load, monkeypatch, tmp_path):
    absolute = load()
    monkeypatch.chdir(tmp_path)
    assert raybd.data.load("npz:set.npz", tmp_path / "root").fingerprint == absolute.fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"y_train": None, "x_test": None, "extra": np.zeros(1)},
            ["no y_train, x_test (there is extra, x_train, y_test)"],
        ),
        (
            {"x_train": GOOD["x_train"] / 255},
            ["x_train is float64 from", "must be uint8 in 0-255: (x * 255).round().astype(numpy.uint8)"],
        ),
        ({"x_train": GOOD["x_train"] / 127.5 - 1}, ["((x + 1) * 127.5).round()"]),
        ({"x_train": GOOD["x_train"].astype(np.int64)}, ["x_train is int64 from", "bring it to 0-255"]),
        ({"x_train": GOOD["x_train"] > 9}, ["x_train is bool, must be uint8", "x.astype(numpy.uint8) * 255"]),
        ({"y_test": np.array([0.0, 1, 2])}, ["y_test is float64 from 0 to 2, must be integers"]),
        ({"y_test": np.eye(3, dtype=int)}, ["y_test is (3, 3), must be (N,)"]),
        ({"y_train": np.array([0, 1, 2])}, ["6 train images but 3 train labels"]),
        (
            {"y_train": np.array([1, 2, 3] * 2), "y_test": np.array([1, 2, 3])},
            ["training labels are 1, 2, 3: they must be 0 to 2"],
        ),
        (
            {"y_train": np.array([-1, 0, 2] * 2), "y_test": np.array([0, 0, 2])},
            ["training labels are -1, 0, 2: they must be 0 to 2"],
        ),
        (
            {"y_train": np.array([0, 0, 5] * 2), "y_test": np.zeros(3, int)},
            ["labels are 0, 5: they must be 0 to 1"],
        ),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, ["1 class only (0): at least 2"]),
        ({"y_test": np.array([0, 7, 9])}, ["test labels that no training image has: 7, 9"]),
        ({"classes": np.array(["a", "b", "c", "d"])}, ["must be 0 to 3 (there are that many class names)"]),
        ({"x_test": GOOD["x_test"][:0], "y_test": GOOD["y_test"][:0]}, ["the test split is empty"]),
        (
            {"x_test": np.zeros((3, 5, 5), np.uint8)},
            ["training images are (1, 5, 4) but test images (1, 5, 5)"],
        ),
        (
            {"x_test": np.zeros((3, 3, 5, 3), np.uint8)},
            ["x_test is (3, 3, 5, 3): channels could be first or last"],
        ),
        ({"x_test": np.zeros((3, 5, 4, 2), np.uint8)}, ["x_test is (3, 5, 4, 2), must be (N, H, W)"]),
        ({"x_test": np.zeros((3, 20), np.uint8)}, ["x_test is (3, 20), must be (N, H, W)"]),
        (
            {"y_train": np.array([0, "a", 2, 0, 1, 2], dtype=object)},
            ["y_train cannot be read", "pickled objects are refused"],
        ),
    ],
)
def test_each_fault_is_the_one_problem_named(load, changes, said):
    problems = _problems(load, **changes)
    assert len(problems) == 1, problems
    assert all(part in problems[0] for part in said), problems


def test_all_faults_are_named_at_once(load):
    changes = {"x_train": GOOD["x_train"] / 255, "y_train": None, "x_test": GOOD["x_test"][:2]}
    problems = _problems(load, **changes)
    assert [problem.split()[0] for problem in problems] == ["no", "x_train", "2"]


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz: there is no such file"):
        raybd.data.load(f"npz:{tmp_path / 'none.npz'}", tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(InputError, match=r"not a \.npz file of plain arrays"):
        raybd.data.load(f"npz:{text}", tmp_path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="one array alone"):
        raybd.data.load(f"npz:{tmp_path / 'one.npy'}", tmp_path)


def test_changed_file_is_read_again(load, tmp_path):
    before = load()
    pixel = GOOD["x_train"].copy()
    pixel[0, 0, 0] ^= 1
    after = load(x_train=pixel)  # a file of the same size
    assert after.train.x[0, 0, 0, 0] == pixel[0, 0, 0]
    assert after.fingerprint != before.fingerprint
    assert before.train.x[0, 0, 0, 0] == GOOD["x_train"][0, 0, 0]  # the old map outlives the old file
    file = tmp_path / "set.npz"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert raybd.data.load(f"npz:{file}", tmp_path / "root").fingerprint == after.fingerprint


def test_class_names_must_be_told_apart_and_printed(load):
    assert _problems(load, classes=np.array(["cat", "dog", "cat"])) == ["class names that occur twice: cat"]
    assert _problems(load, classes=np.array(["cat", "", " "])) == ["classes without a name: 1, 2"]
    assert _problems(load, classes=np.array([b"\xff", b"cat", b"dog"])) == [r"class names that are not UTF-8: \udcff"]
    assert load(classes=np.array(["été".encode(), b"cat", b"dog"])).classes == ("été", "cat", "dog")


def _claiming(path, shape):
    """A file whose x_train has a header that claims `shape`, and nothing after it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    np.savez(path, **{key: value for key, value in GOOD.items() if key != "x_train"})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x_train.npy", header.getvalue())


def test_size_that_is_not_there_is_told_before_memory_is_taken(tmp_path):
    _claiming(tmp_path / "huge.npz", (2**26, 1000, 1000))
    with pytest.raises(InputError, match=r"x_train cannot be read: its header claims 61 TiB, the file holds 128 bytes"):
        raybd.data.load(f"npz:{tmp_path / 'huge.npz'}", tmp_path / "root")


def test_arrays_that_no_memory_holds_are_refused_before_they_are_read(load, monkeypatch):
    assert len(load().train) == 6
    monkeypatch.setattr(npz_headers, "available_bytes", lambda: 200)
    arrays = sum(value.nbytes for value in GOOD.values())
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", None)  # nothing may be read
    assert _problems(load, x_test=GOOD["x_test"] + 1) == [
        f"its arrays take {arrays} bytes, and this machine has 200 bytes free"
    ]
