"""Whatever a .npz file or a folder holds, reading it gives a data set or an InputError, and never anything else."""

import io
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from raybd.data import load
from raybd.data.folder import Folder
from raybd.data.npz import KEYS, Npz
from raybd.data.reader import RawData, Reader
from raybd.errors import InputError

Array = npt.NDArray[Any]
BOUNDED = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
ANY = arrays.arrays(arrays.scalar_dtypes() | arrays.unicode_string_dtypes() | arrays.byte_string_dtypes(), SHAPES)
IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(0, 6), *[st.integers(0, 4)] * 2))
LABELS = arrays.arrays(arrays.integer_dtypes(), st.integers(0, 6), elements={"min_value": 0, "max_value": 3})
NAMES = st.none() | ANY | arrays.arrays("U3", st.integers(0, 4))


def _good() -> dict[str, Array]:
    y = np.arange(6) % 2
    x = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": np.array(["cat", "dog"])}


def _saved(held: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **held)
    return file.getvalue()


def _read(reader: Reader, where: Path) -> RawData | None:
    """What the reader makes of `where`; None if it refuses it, in words that can be printed."""
    found, problems = None, [""]
    try:
        reader.stamp(where)
        found = reader.read(where)
    except InputError as error:
        problems = error.problems
    assert all(problem.encode() for problem in problems) or found
    if found is not None:
        _check(found)
    return found


def _check(found: RawData) -> None:
    for split in (found.train, found.test):
        assert split.x.ndim == 4
        assert len(split.x) == len(split.y) > 0
        assert set(split.y.tolist()) <= set(range(len(found.classes)))
    assert len({*found.classes}) == len(found.classes) >= 2


@BOUNDED
@given(
    st.fixed_dictionaries(
        {key: st.none() | (IMAGES if key.startswith("x") else LABELS) | ANY for key in KEYS} | {"classes": NAMES},
        optional={"spare": ANY},
    )
)
def test_arrays_of_any_type_and_shape(tmp_path: Path, drawn: dict[str, Array | None]) -> None:
    file = tmp_path / "set.npz"
    file.write_bytes(_saved({key: value for key, value in drawn.items() if value is not None}))
    _read(Npz(), file)


@BOUNDED
@given(st.sampled_from([*KEYS, "classes"]), ANY)
def test_one_array_of_any_kind_among_good_ones(tmp_path: Path, key: str, value: Array) -> None:
    file = tmp_path / "set.npz"
    file.write_bytes(_saved(_good() | {key: value}))
    _read(Npz(), file)


@BOUNDED
@given(st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=4)), max_size=5), st.integers(0, 3000))
def test_a_file_with_spoilt_bytes(tmp_path: Path, spoilt: list[tuple[int, bytes]], kept: int) -> None:
    content = bytearray(_saved(_good()))
    for at, new in spoilt:
        content[at : at + len(new)] = new
    file = tmp_path / "set.npz"
    file.write_bytes(content[: len(content) - kept if kept < 300 else None])
    _read(Npz(), file)


@BOUNDED
@given(st.sampled_from([*KEYS, "classes"]), st.binary(max_size=40) | st.text(max_size=120).map(str.encode))
def test_an_array_with_any_header(tmp_path: Path, key: str, text: bytes) -> None:
    file = tmp_path / "set.npz"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(file, "w") as made:
        for name, value in _good().items():
            body = io.BytesIO()
            np.save(body, value)
            made.writestr(f"{name}.npy", header if name == key else body.getvalue())
    _read(Npz(), file)


NAMED = st.sampled_from([b"a.png", b"b.jpg", b"\xff.png", b".png", b"train", b"test", b"dog", b"\xfe"])
UNNAMED = st.binary(min_size=1, max_size=5).map(lambda name: name.translate(None, b"/\0") or b"x")
FILE_NAMES = (NAMED | UNNAMED).filter(lambda name: name not in (b".", b"..")).map(os.fsdecode)
KINDS = st.sampled_from(["image", "image", "large", "empty", "junk", "folder", "dangling", "loop", "pipe"])


def _make(path: Path, kind: str) -> None:
    """A file of any kind at `path`, unless something is there or the name is none."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind in ("dangling", "loop"):
            path.symlink_to(path.name if kind == "loop" else "nowhere")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind in ("image", "large"):
            side = {"image": 2, "large": 3}[kind]
            with path.open("xb") as file:
                Image.new("L", (side, side)).save(file, "png")
        else:
            path.write_bytes(b"junk" if kind == "junk" else b"")


@BOUNDED
@given(
    st.lists(FILE_NAMES, max_size=3),
    st.lists(st.tuples(st.sampled_from(["", "train", "test"]), FILE_NAMES, FILE_NAMES, KINDS), max_size=12),
)
def test_a_tree_of_any_files(tmp_path: Path, folders: list[str], files: list[tuple[str, str, str, str]]) -> None:
    root = tmp_path / "images"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for split, folder, name, kind in files:
        if not (root / split / folder / name).is_fifo():
            _make(root / split / folder / name, kind)
    for name in folders:
        _make(root / name, "folder")
    _read(Folder(), root)


def test_the_good_ones_are_read(tmp_path: Path) -> None:
    file, root = tmp_path / "set.npz", tmp_path / "images"
    file.write_bytes(_saved(_good()))
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"):
        _make(root / name, "image")
    assert _read(Npz(), file) is not None
    assert _read(Folder(), root) is not None


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/set.npz", "\0", "x" * 300, "/dev/zero", "/proc/self/mem", "loop"]
)
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_path_that_is_none(kind: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError):
        load(f"{kind}:{path}", tmp_path)
