"""The cache: one memory-mapped file for each set, rebuilt where it is broken or old."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import raybd.data
from raybd.data import cache
from raybd.data.npz import Npz
from raybd.data.reader import stamp_of

SAVED = {
    "x_train": np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
    "y_train": np.array([0, 1]),
    "x_test": np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
    "y_test": np.array([1]),
}


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path):
    np.savez(tmp_path / "set.npz", **SAVED)
    return tmp_path / "root"


def _load(root):
    return raybd.data.load(f"npz:{root.parent / 'set.npz'}", root)


def _file(root):
    [file] = (root / "raybd-cache").glob("*.pt")
    return file


def _forbid_reading(monkeypatch):
    def read(self, where):
        raise AssertionError("read although cached")

    monkeypatch.setattr(Npz, "read", read)


def _same(one, other):
    tensors = [(d.train.x, d.train.y, d.test.x, d.test.y) for d in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    for field in ("name", "classes", "fingerprint", "mean", "std"):
        assert getattr(one, field) == getattr(other, field)


def test_cached_load_is_the_same_and_reads_nothing(root, monkeypatch, caplog):
    first = _load(root)
    assert first.train.x.tolist() == SAVED["x_train"][:, None].tolist()
    assert not caplog.records
    _forbid_reading(monkeypatch)
    monkeypatch.setattr(cache, "describe", None)
    _same(first, _load(root))
    assert sorted(path.suffix for path in (root / "raybd-cache").iterdir()) == [".lock", ".pt"]


def test_loads_map_the_one_file_and_writing_to_one_changes_no_other(root):
    first, second = _load(root), _load(root)
    if Path("/proc/self/maps").exists():
        maps = Path("/proc/self/maps").read_text()
        assert maps.count(str(_file(root))) >= 2
    before = _file(root).read_bytes()
    first.train.x.zero_()
    assert second.train.x.tolist() == SAVED["x_train"][:, None].tolist()
    assert _file(root).read_bytes() == before


@pytest.mark.parametrize("entry", [{"format": cache.FORMAT}, {"format": cache.FORMAT, "stamp": None}, [1]])
def test_cache_of_another_make_is_rebuilt_with_a_warning(root, entry, caplog):
    first = _load(root)
    if isinstance(entry, dict) and "stamp" in entry:
        entry = entry | {"stamp": Npz().stamp(root.parent / "set.npz"), "x_train": torch.zeros(2)}
    file = _file(root)
    file.unlink()
    torch.save(entry, file)
    _same(first, _load(root))
    assert "computed anew" in caplog.text
    caplog.clear()
    _same(first, _load(root))
    assert not caplog.records


def test_cache_of_another_format_is_rebuilt(root, monkeypatch):
    first = _load(root)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    _same(first, _load(root))
    assert torch.load(_file(root), weights_only=True)["format"] == cache.FORMAT


def test_unwritable_root_uses_the_home_cache_and_roots_do_not_collide(root, monkeypatch, tmp_path):
    home = tmp_path / "home/.cache/raybd/data/raybd-cache"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raybd-cache").write_text("a file where the folder would be")
    first = _load(tmp_path / "one")
    assert len(list(home.glob("npz-*.pt"))) == 1
    _forbid_reading(monkeypatch)
    _same(first, _load(tmp_path / "two"))  # the same source, wherever the root
    files = [cache.cache_files("mnist", tmp_path / name, tmp_path / name) for name in ("one", "two")]
    assert [pair[0] for pair in files] == [tmp_path / name / "raybd-cache/mnist.pt" for name in ("one", "two")]
    assert files[0][1].parent == files[1][1].parent == home
    assert files[0][1] != files[1][1]


def test_folder_marked_read_only_is_left_alone_even_by_an_administrator(root, tmp_path):
    root.mkdir()
    root.chmod(0o555)
    _load(root)
    assert list(root.iterdir()) == []
    assert len(list((tmp_path / "home/.cache/raybd/data/raybd-cache").glob("*.pt"))) == 1
    root.chmod(0o755)


def test_no_writable_place_gives_the_data_and_a_warning(root, monkeypatch, caplog):
    monkeypatch.setattr(cache, "writable", lambda folder: False)
    assert _load(root).train.y.tolist() == [0, 1]
    assert re.search("no cache, for neither .*root/raybd-cache nor .*can be written", caplog.text)
    assert not root.exists()


def test_stamp_knows_names_sizes_and_times_but_not_the_base(tmp_path):
    assert stamp_of([], tmp_path) == ""
    for base in ("a", "b"):
        (tmp_path / base).mkdir()
        (tmp_path / base / "f").write_text("x")
    os.utime(tmp_path / "a/f", ns=(5, 5))
    os.utime(tmp_path / "b/f", ns=(5, 5))
    first = stamp_of([tmp_path / "a/f"], tmp_path / "a")
    assert stamp_of([tmp_path / "b/f"], tmp_path / "b") == first
    os.utime(tmp_path / "b/f", ns=(5, 6))
    assert stamp_of([tmp_path / "b/f"], tmp_path / "b") != first


def test_a_file_replaced_by_one_of_equal_size_and_date_is_read_anew(root):
    first, path = _load(root), root.parent / "set.npz"
    before = path.stat()
    other = {**SAVED, "x_train": SAVED["x_train"][:, ::-1]}
    np.savez(path, **other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    second = _load(root)
    assert second.fingerprint != first.fingerprint
    assert second.train.x.tolist() == other["x_train"][:, None].tolist()
