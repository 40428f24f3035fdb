"""The two-class tasks of arXiv 2106.07214: which images are drawn, and which are poisoned."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raybd.convex.task import Array, BinaryTask
from raybd.convex.triggers import Labels, Trigger
from raybd.errors import InputError

Pixels = NDArray[np.uint8]
SPLIT_SEED = 999  # of the authors' split: one split, whatever the seed of trigger and poison


@dataclass(frozen=True, eq=False)
class ClassPair:
    """Images (N, channels, h, w) in [0, 1] of two classes, and their classes 0 or 1 (N,)."""

    train_x: Array
    train_y: Labels
    test_x: Array
    test_y: Labels


def mnist_pair(
    train: tuple[Pixels, NDArray[np.integer]],
    test: tuple[Pixels, NDArray[np.integer]],
    digits: tuple[int, int],
    n_train: int = 1500,
    n_test: int = 500,
) -> ClassPair:
    """The authors' training and test images of two digits, in their order (the first digit is class 0).

    `train` and `test` are MNIST's raw images (N, 28, 28) in 0-255 and labels (N,) in file order. Drawn as published:
    n_train + 1 of the pair's training images, of which one, their unused validation image, is put aside; the first
    n_test / 2 test images of each digit, shuffled. Raises InputError where the digits or the images do not suffice.
    """
    from sklearn.model_selection import train_test_split

    if found := pair_problems(train[1], test[1], digits, n_train, n_test):
        raise InputError(found)
    pool = np.flatnonzero(np.isin(train[1], digits))
    drawn = np.random.RandomState(SPLIT_SEED).choice(pool, n_train + 1, replace=False)
    kept, _ = train_test_split(np.arange(n_train + 1), train_size=n_train, test_size=1, random_state=SPLIT_SEED)
    tested = np.concatenate([np.flatnonzero(test[1] == digit)[: n_test // 2] for digit in digits])
    tested = tested[np.random.RandomState(SPLIT_SEED).choice(n_test, n_test, replace=False)]
    return ClassPair(*_taken(train, drawn[kept], digits), *_taken(test, tested, digits))


def poison_indices(n: int, rate: float, seed: int) -> NDArray[np.intp]:
    """int(n * rate) of n training points, as the authors drew them: nested across rates for one seed.

    Raises InputError where the rate is no share, or so small that it poisons nobody.
    """
    count = int(n * rate)
    if not 0 <= rate <= 1:
        raise InputError(f"poison rate {rate:g} is no share (allowed: 0 to 1)")
    if rate > 0 and count == 0:
        raise InputError(f"poison rate {rate:g} of {n} points poisons nobody (the least rate is {1 / n:.2g})")
    return np.random.RandomState(seed).choice(np.arange(n), count, replace=False)


def backdoor_task(pair: ClassPair, trigger: Trigger, rate: float, seed: int) -> BinaryTask:
    """The pair with int(n * rate) training images triggered and flipped in place, and every test image triggered.

    Replacement, not addition: without its poison the task has fewer points than the pair. All-to-all, which in two
    classes flips every label. Raises InputError where the rate or the clean points that it leaves do not suffice.
    """
    chosen = poison_indices(len(pair.train_y), rate, seed)
    x, y, poisoned = pair.train_x.copy(), pair.train_y.copy(), np.zeros(len(pair.train_y), dtype=bool)
    x[chosen] = trigger(pair.train_x[chosen], pair.train_y[chosen])
    y[chosen] = 1 - pair.train_y[chosen]
    poisoned[chosen] = True
    return BinaryTask(
        train_x=_flat(x),
        train_sign=_sign(y),
        poisoned=poisoned,
        test_x=_flat(pair.test_x),
        test_sign=_sign(pair.test_y),
        triggered_x=_flat(trigger(pair.test_x, pair.test_y)),
        triggered_sign=-_sign(pair.test_y),
    )


def pair_problems(
    train_y: NDArray[np.integer],
    test_y: NDArray[np.integer],
    digits: tuple[int, int],
    n_train: int = 1500,
    n_test: int = 500,
) -> list[str]:
    """Why `mnist_pair` cannot draw from images of these labels; empty if it can."""
    found = []
    if digits[0] == digits[1]:
        found.append(f"the pair {digits[0]}-{digits[1]} is one class (a pair needs two)")
    there = int(np.isin(train_y, digits).sum())
    if there < n_train + 1:
        found.append(f"{there} training images of {digits[0]} or {digits[1]} are too few (needed: {n_train + 1})")
    for digit in digits:
        if int((test_y == digit).sum()) < n_test // 2:
            found.append(f"too few test images of {digit}: {int((test_y == digit).sum())} (needed: {n_test // 2})")
    if n_test < 2 or n_test % 2:
        found.append(f"{n_test} test images cannot be halved between two digits (allowed: even numbers from 2)")
    return found


def _taken(
    half: tuple[Pixels, NDArray[np.integer]], index: NDArray[np.intp], digits: tuple[int, int]
) -> tuple[Array, Labels]:
    return half[0][index, None] / 255.0, (half[1][index] == digits[1]).astype(np.int64)


def _flat(images: Array) -> Array:
    return np.ascontiguousarray(images.reshape(len(images), -1), dtype=np.float64)


def _sign(y: Labels) -> Array:
    return np.where(y == 1, 1.0, -1.0)
