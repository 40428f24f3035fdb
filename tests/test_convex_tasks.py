"""Who is drawn, who is poisoned, what a trigger changes, and what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from raybd.convex.class_pairs import ClassPair, backdoor_task, mnist_pair, poison_indices
from raybd.convex.triggers import random_patches, stamp_patches
from raybd.errors import InputError
from tests.test_convex_digits import digits_pair, digits_task


def test_patches_are_those_of_the_specification() -> None:
    patches = random_patches(1, 2, 1, 3)
    assert patches.shape == (2, 1, 3, 3)
    assert patches[0, 0, 0] == pytest.approx([0.417022, 0.720324, 0.000114], abs=1e-6)
    assert patches[1, 0, 0] == pytest.approx([0.538817, 0.419195, 0.685220], abs=1e-6)


def test_each_source_class_gets_its_own_patch_in_the_corner() -> None:
    images, patches = np.zeros((3, 2, 4, 5)), random_patches(0, 2, 2, 2)
    stamped = stamp_patches(images, np.array([1, 0, 1]), patches)
    for image, label in zip(stamped, (1, 0, 1), strict=True):
        assert (image[:, 2:, 3:] == patches[label]).all()
    stamped[:, :, 2:, 3:] = 0
    assert not stamped.any()
    assert not images.any()


def test_poison_is_that_of_the_specification_and_nested() -> None:
    assert poison_indices(1500, 0.1, 1)[:8].tolist() == [91, 75, 1264, 330, 1349, 774, 1038, 1285]
    assert poison_indices(1500, 0.1, 1).sum() == 114816
    assert poison_indices(1500, 0.1, 10)[:3].tolist() == [633, 56, 1245]
    assert poison_indices(1500, 0.1, 10).sum() == 108661
    assert set(poison_indices(1500, 0.01, 7)) < set(poison_indices(1500, 0.02, 7))
    assert len(poison_indices(241, 0.1, 1)) == 24  # cut off, not rounded: 24.1 and, below, 36.9
    assert len(poison_indices(123, 0.3, 1)) == 36


def test_poison_replaces_and_flips_and_touches_nothing_else() -> None:
    pair, task, bare = digits_pair(), digits_task(), digits_task(rate=0)
    chosen = np.zeros(241, dtype=bool)
    chosen[np.random.RandomState(1).choice(np.arange(241), 24, False)] = True
    assert (task.poisoned == chosen).all()
    assert (task.train_sign[chosen] == -bare.train_sign[chosen]).all()
    assert (task.train_sign[~chosen] == bare.train_sign[~chosen]).all()
    assert (task.train_x[~chosen] == bare.train_x[~chosen]).all()
    stamped = stamp_patches(pair.train_x[chosen], pair.train_y[chosen], random_patches(1, 2, 1, 2))
    assert (task.train_x[chosen] == stamped.reshape(24, -1)).all()
    assert (bare.train_sign == np.where(pair.train_y == 1, 1, -1)).all()
    assert (task.triggered_sign == -task.test_sign).all()
    assert (task.test_x == bare.test_x).all()
    assert not (task.triggered_x == task.test_x).all(1).any()


def made_digits(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 4, 4)).astype(np.uint8), rng.integers(0, 10, n)


def test_mnist_pair_by_hand() -> None:
    """The recipe once more, a line at a time."""
    train, test = made_digits(300, 0), made_digits(100, 1)
    pair = mnist_pair(train, test, (7, 1), n_train=20, n_test=6)
    pool = [i for i in range(300) if train[1][i] in (7, 1)]
    drawn = [pool[i] for i in np.random.RandomState(999).choice(len(pool), 21, False)]
    kept = np.random.RandomState(999).permutation(21)[1:]  # train_test_split: the first is the test set
    assert (pair.train_y == [int(train[1][drawn[i]] == 1) for i in kept]).all()
    assert (pair.train_x[:, 0] == np.stack([train[0][drawn[i]] for i in kept]) / 255).all()
    sevens, ones = ([i for i in range(100) if test[1][i] == d][:3] for d in (7, 1))
    order = np.random.RandomState(999).choice(6, 6, False)
    assert (pair.test_x[:, 0] == np.stack([test[0][(sevens + ones)[i]] for i in order]) / 255).all()
    assert (pair.test_y == (order >= 3)).all()


@pytest.mark.parametrize(
    ("digits", "n_train", "n_test", "message"),
    [
        ((7, 7), 20, 6, "the pair 7-7 is one class"),
        ((7, 1), 200, 6, r"training images of 7 or 1 are too few \(needed: 201\)"),
        ((7, 1), 20, 60, r"too few test images of 7: \d+ \(needed: 30\)"),
        ((7, 1), 20, 5, "5 test images cannot be halved"),
    ],
)
def test_pairs_that_cannot_be_drawn(digits: tuple[int, int], n_train: int, n_test: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mnist_pair(made_digits(300, 0), made_digits(100, 1), digits, n_train, n_test)


def test_rates_and_triggers_that_make_no_sense() -> None:
    images, labels = np.zeros((2, 1, 8, 8)), np.array([0, 1])
    with pytest.raises(InputError, match="poison rate 1.5 is no share"):
        poison_indices(100, 1.5, 0)
    with pytest.raises(InputError, match=r"poisons nobody \(the least rate is 0.01\)"):
        poison_indices(100, 0.001, 0)
    with pytest.raises(InputError, match=r"patches \(1, 9, 9\) do not fit images \(1, 8, 8\)"):
        stamp_patches(images, labels, random_patches(0, 2, 1, 9))
    with pytest.raises(InputError, match="do not fit images"):
        stamp_patches(images, labels, random_patches(0, 2, 3, 2))
    with pytest.raises(InputError, match=r"labels \[0, 1\] have no patch"):
        stamp_patches(images, labels, random_patches(0, 1, 1, 2))


def test_tasks_that_do_not_fit_together() -> None:
    task = digits_task()
    for change, message in [
        ({"test_x": task.test_x[:, :5]}, r"test points must be \(N, 64\) with \(N,\) signs, got \(120, 5\)"),
        ({"train_sign": (task.train_sign + 1) / 2}, r"training signs must be -1 or \+1, got \[0.0, 1.0\]"),
        ({"poisoned": task.poisoned[:5]}, "one flag a training point"),
        ({"triggered_x": task.triggered_x * np.nan}, "triggered points must be finite"),
        ({"test_x": task.test_x[:0], "test_sign": task.test_sign[:0]}, "at least one, got 0"),
        ({"train_sign": np.ones(241)}, "are of one class"),
    ]:
        with pytest.raises(InputError, match=message):
            replace(task, **change)


def test_a_rate_that_leaves_one_class_is_refused() -> None:
    x, y = np.random.default_rng(0).random((4, 1, 4, 4)), np.array([0, 0, 0, 1])
    trigger = partial(stamp_patches, patches=random_patches(0, 2, 1, 2))
    with pytest.raises(InputError, match="are of one class"):
        backdoor_task(ClassPair(x, y, x, y), trigger, 0.75, seed=0)
