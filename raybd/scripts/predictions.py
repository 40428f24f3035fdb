"""Predictions that a user's command has written: read, checked and told apart as labels or scores.

One plain contract. A text file has one line an image, in the order of the data: the number of a class (0 for the
first), the name of a class, or one score for each class with commas between. A first line more, of words, is a heading.
A .npy file holds (N,) numbers or names of classes, or (N, K) scores. The largest score wins. Names are read only where
not all labels are numbers: a class that is called 7 is given by its number.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raybd.errors import ScriptError

Array = NDArray[Any]
MAGIC = b"\x93NUMPY"
SHOWN = 5  # examples of what is wrong
ALLOWED = "allowed: a line (or row) an image, in the order of the data, with a class or one score for each class"


def read_predictions(path: Path, count: int, classes: Sequence[str]) -> Tensor:
    """(count, K) float32 scores of the file that the command wrote at `path`; of labels 1 for the class, 0 elsewhere.

    Raises:
        ScriptError: there is no file, or it holds something else; what came and what is allowed.
    """
    files = sorted(path.parent.glob(f"{path.name}*"))  # numpy.save adds .npy
    if len(files) != 1:
        there = "nothing" if not files else ", ".join(file.name for file in files)
        raise ScriptError(f"predict must write one file at {{predictions}}, and there is {there}; {ALLOWED}")
    if files[0].read_bytes()[: len(MAGIC)] == MAGIC:
        return scores_of(_load(files[0]), count, classes)
    return scores_of(_parsed(files[0].read_text(errors="replace"), count), count, classes)


def scores_of(found: Array, count: int, classes: Sequence[str]) -> Tensor:
    """(count, K) float32 scores of labels (count,), as numbers or names, or of scores (count, K).

    Raises:
        ScriptError: `found` is neither; what came and what is allowed.
    """
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim not in (1, 2) or len(found) != count:
        came = f"{found.shape} values" if found.ndim not in (1, 2) else f"{len(found)} lines or rows"
        raise ScriptError(f"predictions came as {came}, and there are {count} images; {ALLOWED}")
    if found.ndim == 2:
        return _checked_scores(found, classes)
    labels = _labels(found, classes)
    return torch.nn.functional.one_hot(torch.from_numpy(labels), len(classes)).float()


def _load(path: Path) -> Array:
    try:
        found: Array = np.atleast_1d(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise ScriptError(f"predictions are a .npy file that cannot be read: {error}") from error
    return found


def _parsed(text: str, count: int) -> Array:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == count + 1 and not any(map(_is_number, lines[0].split(","))):
        lines = lines[1:]  # a heading
    rows = [[cell.strip().strip('"') for cell in line.split(",")] for line in lines]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ScriptError(f"predictions have lines of {widths[0]} to {widths[-1]} values; {ALLOWED}")
    return np.array(rows, dtype=str).reshape(len(rows), widths[0] if widths else 1)


def _checked_scores(found: Array, classes: Sequence[str]) -> Tensor:
    if found.shape[1] != len(classes):
        told = f"{found.shape[1]} scores an image, and there are {len(classes)} classes ({_some(classes)})"
        raise ScriptError(f"predictions have {told}; {ALLOWED}")
    try:
        scores = found.astype(np.float64)
    except ValueError as error:
        raise ScriptError(f"predictions have scores that are no numbers ({error}); {ALLOWED}") from error
    if bad := np.flatnonzero(~np.isfinite(scores).all(1)).tolist():
        told = f"{len(bad)} of {len(scores)} images have scores that are NaN or infinite, the first is number {bad[0]}"
        raise ScriptError(f"predictions: {told}; {ALLOWED}")
    # in order of size: float32 must not make equal what differs
    return torch.from_numpy(scores.argsort(1).argsort(1).astype(np.float32) if _collide(scores) else scores).float()


def _collide(scores: Array) -> bool:
    """Whether the class with the largest score is another in float32."""
    return bool((scores.argmax(1) != scores.astype(np.float32).argmax(1)).any())


def _labels(found: Array, classes: Sequence[str]) -> NDArray[np.int64]:
    texts = [str(value) for value in found.tolist()]
    numbers = [float(text) if _is_number(text) else None for text in texts]
    if any(number is None for number in numbers):
        return _named(texts, classes)
    values = np.array(numbers, dtype=np.float64)
    bad = ~np.isfinite(values) | (values != np.round(values)) | (values < 0) | (values >= len(classes))
    if bad.any():
        told = (
            f"{int(bad.sum())} of {len(values)} labels are no class ({_some([texts[i] for i in np.flatnonzero(bad)])})"
        )
        last = len(classes) - 1
        raise ScriptError(f"predictions: {told}; allowed: 0 to {last}, for {_some(classes)}, or those names")
    return values.astype(np.int64)


def _named(texts: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(classes)}
    if bad := [text for text in texts if text not in numbers]:
        told = f"{len(bad)} of {len(texts)} labels are no class ({_some(bad)})"
        raise ScriptError(f"predictions: {told}; allowed: 0 to {len(classes) - 1}, or the names {_some(classes)}")
    return np.array([numbers[text] for text in texts], dtype=np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(names: Sequence[str]) -> str:
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more
