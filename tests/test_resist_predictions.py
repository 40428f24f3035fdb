"""Predictions of a user's command: one plain contract, and what is told where it is broken."""

from pathlib import Path

import numpy as np
import pytest

from raybd.errors import ScriptError
from raybd.scripts.predictions import read_predictions

NAMES = ("cat", "dog", "owl")


def read(tmp_path: Path, text: str, count: int = 3, names: tuple[str, ...] = NAMES) -> list[int]:
    (tmp_path / "predictions").write_text(text)
    return read_predictions(tmp_path / "predictions", count, names).argmax(1).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "2\n0\n1\n",
        "2.0\n0.0\n1.0",
        "2,\n0,\n1,\n".replace(",", ""),
        "owl\ncat\ndog",
        '"owl"\n"cat"\n"dog"\n',
        "label\nowl\ncat\ndog",
        "0.1,0.2,0.7\n0.5,0.3,0.2\n0,1,0",
        "cat,dog,owl\n-3,-2,-1\n9,8,7\n1e-9,2e-9,0",
    ],
)
def test_labels_names_and_scores_are_told_apart(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == [2, 0, 1]


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_arrays_may_be_labels_or_scores_under_the_name_that_numpy_gives_them(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "predictions", np.array([2, 0, 1], dtype))
    assert read_predictions(tmp_path / "predictions", 3, NAMES).argmax(1).tolist() == [2, 0, 1]
    np.save(tmp_path / "predictions", np.eye(3)[[2, 0, 1]])
    assert read_predictions(tmp_path / "predictions", 3, NAMES).argmax(1).tolist() == [2, 0, 1]


def test_a_class_that_is_called_by_a_number_is_given_by_its_place(tmp_path: Path) -> None:
    assert read(tmp_path, "0\n1\n1", names=("7", "1")) == [0, 1, 1]


def test_the_largest_score_wins_also_where_float32_cannot_tell_it(tmp_path: Path) -> None:
    assert read(tmp_path, "1.00000000001,1,0\n1,1.00000000001,0\n0,1,1.00000000001") == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2\n0\n", "came as 2 lines or rows, and there are 3 images"),
        ("", "came as 0 lines or rows"),
        ("2\n0\n1\n1\n1", "came as 5 lines"),
        ("2\nnan\n1", r"1 of 3 labels are no class \(nan\); allowed: 0 to 2, for cat, dog, owl"),
        ("2\n3\n-1", r"2 of 3 labels are no class \(3, -1\); allowed: 0 to 2"),
        ("0.5\n0\n1", r"1 of 3 labels are no class \(0.5\)"),
        ("owl\ncow\nant", r"2 of 3 labels are no class \(cow, ant\); allowed: 0 to 2, or the names cat, dog, owl"),
        ("1,2\n1,2\n1,2", "2 scores an image, and there are 3 classes"),
        ("1,2,3\n1,2\n1,2,3", "lines of 2 to 3 values"),
        ("1,2,3\n1,nan,3\n1,2,inf", "2 of 3 images have scores that are NaN or infinite, the first is number 1"),
        ("1,2,3\n1,x,3\n1,2,3", "scores that are no numbers"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ScriptError, match=said) as caught:
        read(tmp_path, text)
    assert "allowed" in str(caught.value)


def test_no_file_several_files_and_pickled_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="must write one file .* there is nothing"):
        read_predictions(tmp_path / "predictions", 3, NAMES)
    np.save(tmp_path / "predictions", np.array([2, 0, {}], object))
    with pytest.raises(ScriptError, match="cannot be read"):
        read_predictions(tmp_path / "predictions", 3, NAMES)
    (tmp_path / "predictions").write_text("2\n0\n1\n")
    with pytest.raises(ScriptError, match=r"there is predictions, predictions.npy"):
        read_predictions(tmp_path / "predictions", 3, NAMES)
