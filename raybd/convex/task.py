"""A two-class task with a backdoor, as arrays: the input of every convex learner."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from raybd.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class BinaryTask:
    """n training points of d features in the order they came in, poison among them, and two test sets.

    Signs are -1 or +1 (class 0, class 1): training labels for training points, the true labels for `test_x`, and the
    attacker's labels for `triggered_x`. Raises InputError where arrays do not fit together.
    What several learners need of the same points is computed once and kept.
    """

    train_x: Array  # (n, d)
    train_sign: Array  # (n,)
    poisoned: Mask  # (n,) which training points carry the trigger and the attacker's label
    test_x: Array  # (k, d)
    test_sign: Array  # (k,)
    triggered_x: Array  # (l, d)
    triggered_sign: Array  # (l,)

    def __post_init__(self) -> None:
        if found := self._misfits() or self._gaps():
            raise InputError(found)

    @property
    def poison_count(self) -> int:
        """How many training points are poisoned."""
        return int(self.poisoned.sum())

    @cached_property
    def nonzero_features(self) -> Mask:
        """(d,) features that are not 0 in every training point: an L2 penalty leaves the others without weight."""
        return np.asarray((self.train_x != 0).any(0))

    @cached_property
    def basis(self) -> Array | None:
        """(a, n) orthonormal columns that span the training points in their a live features, None where a <= n.

        An L2-penalised linear model lies in that span, so it may be trained in n dimensions instead of a.
        """
        points = self.train_x[:, self.nonzero_features]
        if points.shape[1] <= len(points):
            return None
        return np.asarray(qr(points.T, mode="economic")[0], dtype=np.float64)

    @cached_property
    def train_rows(self) -> Array:
        """(n, r + 1) training points in the coordinates that linear models are trained in, with a 1 appended."""
        live = self.train_x[:, self.nonzero_features]
        return np.column_stack([live if self.basis is None else live @ self.basis, np.ones(len(live))])

    @cached_property
    def clean_scatter(self) -> Array:
        """(r + 1, r + 1) sum of a a^T over the `train_rows` a of clean points."""
        clean = self.train_rows[~self.poisoned]
        return clean.T @ clean

    @cached_property
    def gram(self) -> Array:
        """(n, n) inner products of the training points."""
        return self.train_x @ self.train_x.T

    def kept(self, owner: Hashable, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns; where `owner`, a learner, has asked for `name` already, what it returned then.

        A trial asks for the same fit for its model, its curve and its slope. What the owner before had is let go.
        """
        if owner not in self._kept:
            self._kept.clear()
            self._kept[owner] = {}
        known = self._kept[owner]
        if name not in known:
            known[name] = make()
        found: T = known[name]
        return found

    @cached_property
    def _kept(self) -> dict[Hashable, dict[Hashable, Any]]:
        return {}

    def decisions_of(self, phi: Array, x: Array) -> Array:
        """Decision values (N,) of `x` (N, d) by `phi` (r + 1,), trained on `train_rows`."""
        to_features = self.to_features(phi)
        return np.asarray(x @ to_features[:-1] + to_features[-1])

    def weighted_sum(self, x: Array, u: Array) -> Array:
        """(r + 1,) sum of `u` (N,) times `x` (N, d) with a 1 appended, in the coordinates of `train_rows`."""
        total = (x.T @ u)[self.nonzero_features]
        return np.append(total if self.basis is None else self.basis.T @ total, u.sum())

    def to_features(self, phis: Array) -> Array:
        """(..., d + 1) weights and intercept on the features, of `phis` (..., r + 1) trained on `train_rows`."""
        weights = phis[..., :-1] if self.basis is None else phis[..., :-1] @ self.basis.T
        to_features = np.zeros((*phis.shape[:-1], len(self.nonzero_features) + 1))
        to_features[..., :-1][..., self.nonzero_features] = weights
        to_features[..., -1] = phis[..., -1]
        return to_features

    def weights(self, beta: float) -> Array:
        """(n,) weight of every training point: 1, and `beta` on the poison."""
        return np.where(self.poisoned, beta, 1.0)

    def _misfits(self) -> list[str]:
        d = self.train_x.shape[-1]
        if self.poisoned.shape != self.train_sign.shape:
            return [f"poisoned must be one flag a training point {self.train_sign.shape}, got {self.poisoned.shape}"]
        return [
            f"{name} points must be (N, {d}) with (N,) signs, got {x.shape} with {sign.shape}"
            for name, (x, sign) in self._halves().items()
            if x.ndim != 2 or x.shape[1] != d or sign.shape != x.shape[:1]
        ]

    def _gaps(self) -> list[str]:
        found = []
        for name, (x, sign) in self._halves().items():
            if not np.isin(sign, (-1, 1)).all():
                found.append(f"{name} signs must be -1 or +1, got {np.unique(sign)[:5].tolist()}")
            if not len(x) or not np.isfinite(x).all():
                found.append(f"{name} points must be finite and at least one, got {len(x)}")
        if len(np.unique(self.train_sign[~self.poisoned])) < 2:
            found.append("the clean training points are of one class (a learner needs two)")
        return found

    def _halves(self) -> dict[str, tuple[Array, Array]]:
        return {
            "training": (self.train_x, self.train_sign),
            "test": (self.test_x, self.test_sign),
            "triggered": (self.triggered_x, self.triggered_sign),
        }
