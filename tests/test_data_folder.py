"""Folders of image files: layouts, modes, checks, cache."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import raybd.data
from raybd.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def _random(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _load(root):
    return raybd.data.load(f"folder:{root}", root.parent / "root")


def _problems(root):
    with pytest.raises(InputError) as caught:
        _load(root)
    assert all(problem.startswith(f"folder:{root}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"folder:{root}: ") for problem in caught.value.problems]


def _halves(root, shape=(4, 6, 3)):
    """train: 2 cats, 1 dog; test: 1 dog."""
    return {
        name: _save(root / name, _random(*shape))
        for name in ("train/dog/a.png", "train/cat/b.PNG", "train/cat/a.bmp", "test/dog/x.ppm")
    }


def test_train_and_test_folders_give_exact_pixels_in_sorted_order(root):
    pixels = _halves(root)
    (root / "train/cat/notes.txt").write_text("no image")
    data = _load(root)
    want = [pixels[name] for name in ("train/cat/a.bmp", "train/cat/b.PNG", "train/dog/a.png")]
    assert np.array_equal(data.train.x.numpy(), np.stack(want).transpose(0, 3, 1, 2))
    assert data.train.y.tolist() == [0, 0, 1]
    assert np.array_equal(data.test.x[0].numpy(), pixels["test/dog/x.ppm"].transpose(2, 0, 1))
    assert data.test.y.tolist() == [1]
    assert data.classes == ("cat", "dog")


def test_flat_folder_is_split_once_and_for_all_by_class(root):
    for name, count in (("a", 10), ("b", 2), ("c", 7)):
        for index in range(count):
            _save(root / name / f"{index}.png", _random(3, 3))
    data = _load(root)
    assert torch.bincount(data.test.y).tolist() == [2, 1, 1]  # round(2), round(0.4) raised to 1, round(1.4)
    assert torch.bincount(data.train.y).tolist() == [8, 1, 6]
    seen = {x.numpy().tobytes() for half in (data.train, data.test) for x in half.x}
    assert len(seen) == 19
    assert raybd.data.load(f"folder:{root}", root.parent / "other root").fingerprint == data.fingerprint


def test_fingerprint_is_that_of_the_same_arrays_in_npz(root, tmp_path):
    _halves(root)
    data = _load(root)
    arrays = {"x_train": data.train.x, "y_train": data.train.y, "x_test": data.test.x, "y_test": data.test.y}
    np.savez(tmp_path / "same.npz", **{key: value.numpy() for key, value in arrays.items()})
    assert raybd.data.load(f"npz:{tmp_path / 'same.npz'}", tmp_path).fingerprint == data.fingerprint


def test_all_grey_is_one_channel_and_sixteen_bits_keep_the_upper_eight(root):
    grey, deep = _halves(root, (2, 2)), np.array([[0, 255], [256, 65535]], dtype=np.uint16)
    _save(root / "train/dog/deep.png", deep)
    _save(root / "train/dog/onebit.png", np.array([[True, False], [False, True]]))
    data = _load(root)
    assert data.train.shape == (1, 2, 2)
    assert np.array_equal(data.train.x[0, 0].numpy(), grey["train/cat/a.bmp"])
    assert data.train.x[3, 0].tolist() == [[0, 0], [1, 255]]
    assert data.train.x[4, 0].tolist() == [[255, 0], [0, 255]]


def test_one_colour_image_makes_all_of_them_rgb_without_transparency(root):
    grey = _halves(root, (2, 2))
    colour = _save(root / "train/dog/z.png", _random(2, 2, 4))
    data = _load(root)
    assert data.train.shape == (3, 2, 2)
    assert np.array_equal(data.train.x[0].numpy(), np.stack([grey["train/cat/a.bmp"]] * 3))
    assert np.array_equal(data.train.x[3].numpy(), colour[..., :3].transpose(2, 0, 1))


def test_jpeg_and_webp_are_decoded_as_pillow_does(root):
    _halves(root, (8, 8, 3))
    for name in ("p.jpg", "q.jpeg", "r.webp"):
        _save(root / "train/dog" / name, _random(8, 8, 3))
    data = _load(root)
    for index, name in enumerate(("p.jpg", "q.jpeg", "r.webp"), start=3):
        want = np.asarray(Image.open(root / "train/dog" / name))
        assert np.array_equal(data.train.x[index].numpy(), want.transpose(2, 0, 1))


def test_missing_folder_and_a_single_split(root):
    assert _problems(root) == ["there is no such folder"]
    _save(root / "train/a/0.png", _random(2, 2))
    assert _problems(root) == ["there is train alone; have train and test, or neither"]


def test_one_class_only(root):
    _save(root / "cat/0.png", _random(2, 2))
    _save(root / "cat/1.png", _random(2, 2))
    assert _problems(root) == ["at least 2 classes, each a folder of images, are needed: it has cat"]


def test_empty_class_and_strange_test_class_are_named_together(root):
    _halves(root)
    (root / "train/elk").mkdir()
    (root / "train/elk/readme.gif").write_text("")
    _save(root / "test/fox/0.png", _random(4, 6, 3))
    suffixes = ".png, .jpg, .jpeg, .bmp, .ppm, .webp"
    want = [f"no images ({suffixes}) in train for elk", "classes in test that are not in train: fox"]
    assert _problems(root) == want


def test_class_too_small_to_split(root):
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        _save(root / name, _random(2, 2))
    assert _problems(root) == ["1 image only, so none for one of train and test: b"]


def test_broken_images_are_counted_and_five_named(root):
    _halves(root)
    whole = (root / "train/dog/a.png").read_bytes()
    (root / "train/cat/cut.png").write_bytes(whole[:-30])
    for index in range(5):
        (root / f"train/dog/bad{index}.png").write_text("not a picture")
    [problem] = _problems(root)
    named = ", ".join(["train/cat/cut.png", *(f"train/dog/bad{index}.png" for index in range(4))])
    assert problem == f"6 broken images: {named} and 1 more"


def test_different_sizes_name_two_files(root):
    _halves(root)
    _save(root / "train/dog/big.png", _random(5, 7, 3))
    [problem] = _problems(root)
    assert "train/cat/a.bmp is 6x4, train/dog/big.png is 7x5; give them all one size (--resize 64)" in problem


def test_changes_of_the_folder_are_seen(root):
    _halves(root)
    before = _load(root)
    extra = _save(root / "train/dog/b.png", _random(4, 6, 3))
    after = _load(root)
    assert (len(before.train), len(after.train)) == (3, 4)
    assert np.array_equal(after.train.x[3].numpy(), extra.transpose(2, 0, 1))
    file = root / "train/dog/b.png"
    time = file.stat().st_mtime_ns
    swapped = _save(file, 255 - extra)
    os.utime(file, ns=(time, time + 1))
    assert np.array_equal(_load(root).train.x[3].numpy(), swapped.transpose(2, 0, 1))
    file.rename(root / "train/cat/c.png")
    assert _load(root).train.y.tolist() == [0, 0, 0, 1]


def test_cache_inside_the_folder_is_no_class(root):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        _save(root / name, _random(2, 2))
    (root / ".hidden").mkdir()
    assert raybd.data.load(f"folder:{root}", root).classes == ("a", "b")
    assert (root / "raybd-cache").is_dir()
    assert raybd.data.load(f"folder:{root}", root).classes == ("a", "b")


@pytest.mark.parametrize("name", ["name[1]", "name[7,1]", "name[]", "na[1]me"])
def test_a_folder_whose_name_holds_brackets_is_found(tmp_path, name):
    for split, number in (("train", 3), ("test", 1)):
        for label in "ab":
            for i in range(number):
                path = tmp_path / name / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 4), 10 * i, dtype=np.uint8)).save(path)
    data = raybd.data.load(f"folder:{tmp_path / name}", tmp_path / "root")
    assert (len(data.train), len(data.test)) == (6, 2)
    assert raybd.data.load(f"folder:{tmp_path / name}[1,0;4]", tmp_path / "root").classes == ("b", "a")


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe", "directory"])
def test_a_link_or_pipe_that_is_no_image_is_named(tmp_path, kind):
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((4, 4), 10 * i, dtype=np.uint8)).save(tmp_path / "set" / label / f"{i}.png")
    bad = tmp_path / "set" / "a" / "bad.png"
    make = {"dangling": lambda: bad.symlink_to("nothing.png"), "loop": lambda: bad.symlink_to("bad.png")}
    make |= {"pipe": lambda: os.mkfifo(bad), "directory": bad.mkdir}
    make[kind]()
    with pytest.raises(InputError, match="1 broken images: a/bad.png"):
        raybd.data.load(f"folder:{tmp_path / 'set'}", tmp_path / "root")


def test_files_whose_names_are_not_utf8_are_images_as_others_are(root):
    _halves(root)
    (root / "train/dog/a.png").rename(root / "train/dog" / os.fsdecode(b"\xff.png"))
    assert len(_load(root).train) == 3


def test_class_whose_name_is_not_utf8_is_refused(root):
    for name in ("cat/0.png", "cat/1.png", "\udcff/0.png", "\udcff/1.png"):
        _save(root / name, _random(2, 2))
    assert _problems(root) == [r"class names that are not UTF-8: \udcff"]
