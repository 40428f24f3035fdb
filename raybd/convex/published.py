"""Models of the published results, by the authors' solvers, with the gradients and Hessians of their influence."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy.special import expit

from raybd.convex.learner import Learner, NotUniqueError
from raybd.convex.logistic import Logistic
from raybd.convex.ridge import Ridge
from raybd.convex.svm import RBFSVM, rbf
from raybd.convex.task import Array, Mask

FREE = 1e-6  # distance of a dual from its bounds above which it counts as free
LINE = 10.0  # -margin from which their log-loss goes on as a line


@dataclass
class PublishedModel(ABC):
    """A scikit-learn estimator with the gradients, penalty and Hessian of the published influence."""

    C: float

    @abstractmethod
    def fit(self, x: Array, sign: Array, weights: Array) -> Self:
        """Train on `x` (N, d), `sign` (N,) with `weights` (N,) above 0: libsvm renumbers points if one is 0."""

    @abstractmethod
    def decision_function(self, x: Array) -> Array:
        """(N,) decision values of `x` (N, d)."""

    @abstractmethod
    def loss(self, margins: Array) -> Array:
        """Losses at `margins`, elementwise."""

    @abstractmethod
    def gradients(self, x: Array, sign: Array) -> Array:
        """(N, D) loss gradients at `x` (N, d), scaled as published, without the regulariser's."""

    @abstractmethod
    def penalty(self) -> Array:
        """(D,) the regulariser's gradient, which is added to that of every poison point."""

    @abstractmethod
    def hessian(self, x: Array) -> Array:
        """(D, D) what they invert, of the poison points `x` (m, d)."""


class PublishedLinear(PublishedModel):
    """What ridge and logistic regression share: parameters are the weights and, last, the intercept."""

    estimator: Any  # scikit-learn has no types

    def fit(self, x: Array, sign: Array, weights: Array) -> Self:
        """Train on `x` (N, d), `sign` (N,) with `weights` (N,) above 0: libsvm renumbers points if one is 0."""
        self.estimator.fit(x, sign, weights)
        return self

    def decision_function(self, x: Array) -> Array:
        """(N,) decision values of `x` (N, d)."""
        values: Array = self.estimator.decision_function(x)
        return values

    def penalty(self) -> Array:
        """(d + 1,) weights, and 0 for the intercept."""
        return np.append(self.estimator.coef_, 0.0)


class PublishedLogistic(PublishedLinear):
    """liblinear; losses in bits."""

    def __init__(self, C: float) -> None:
        from sklearn.linear_model import LogisticRegression

        super().__init__(C)
        self.estimator = LogisticRegression(C=C, solver="liblinear")

    def loss(self, margins: Array) -> Array:
        """Log-losses in bits at `margins`, a line below -10."""
        bits: Array = np.where(-margins >= LINE, -margins, np.logaddexp(0, -margins)) / np.log(2)
        return bits

    def gradients(self, x: Array, sign: Array) -> Array:
        """(N, d + 1) C dl/df [x; 1]."""
        margins = sign * self.decision_function(x)
        slopes = -sign * np.where(-margins >= LINE, 1.0, expit(-margins)) / np.log(2)
        found: Array = self.C * slopes[:, None] * _rows(x)
        return found

    def hessian(self, x: Array) -> Array:
        """(d + 1, d + 1) C * sum of s (1 - s) [x; 1] [x; 1]^T, plus 1 for each weight."""
        share, rows = expit(self.decision_function(x)), _rows(x)
        curvature: Array = self.C * (rows.T * (share * (1 - share))) @ rows
        return curvature + _ones_but_last(rows.shape[1])


class PublishedRidge(PublishedLinear):
    """RidgeClassifier; its gradients are 2 C times too large for its Hessian, as published."""

    def __init__(self, C: float) -> None:
        from sklearn.linear_model import RidgeClassifier

        super().__init__(C)
        self.estimator = RidgeClassifier(alpha=1 / (2 * C))

    def loss(self, margins: Array) -> Array:
        """Squared losses at `margins`."""
        return np.square(1 - margins)

    def gradients(self, x: Array, sign: Array) -> Array:
        """(N, d + 1) 2 C dl/df [x; 1]."""
        return 2 * self.C * (-2 * sign * (1 - sign * self.decision_function(x)))[:, None] * _rows(x)

    def hessian(self, x: Array) -> Array:
        """(d + 1, d + 1) 2 * sum of [x; 1] [x; 1]^T, plus 1 / C for each weight."""
        rows = _rows(x)
        return 2 * (rows.T @ rows) + _ones_but_last(rows.shape[1]) / self.C


@dataclass
class PublishedSVM(PublishedModel):
    """libsvm at its own tolerance; the parameters are the duals of the free support vectors and the intercept."""

    gamma: float | None = None  # None: linear
    machine: Any = field(default=None, init=False)
    points: Array = field(default_factory=lambda: np.empty((0, 0)), init=False)

    def kernel(self, x: Array, z: Array) -> Array:
        """(N, M) kernel of `x` (N, d) with `z` (M, d)."""
        return x @ z.T if self.gamma is None else rbf(x, z, self.gamma)

    def fit(self, x: Array, sign: Array, weights: Array) -> Self:
        """Train on `x` (N, d), `sign` (N,) with `weights` (N,) above 0: libsvm renumbers points if one is 0."""
        from sklearn.svm import SVC

        self.machine = SVC(kernel="precomputed", C=self.C).fit(self.kernel(x, x), sign, weights)
        self.points = x[self.machine.support_]
        return self

    def decision_function(self, x: Array) -> Array:
        """(N,) decision values of `x` (N, d)."""
        values: Array = self.kernel(x, self.points) @ self.machine.dual_coef_[0] + self.machine.intercept_
        return values

    def loss(self, margins: Array) -> Array:
        """Hinge losses at `margins`."""
        return np.maximum(0, 1 - margins)

    def gradients(self, x: Array, sign: Array) -> Array:
        """(N, |S| + 1) C dl/df [kernel with the free support vectors; 1]."""
        slopes = np.where(sign * self.decision_function(x) <= 1, -sign, 0.0)
        found: Array = self.C * slopes[:, None] * _rows(self.kernel(x, self.points[self._free()]))
        return found

    def penalty(self) -> Array:
        """(|S| + 1,) 2 K_SS alpha_S, and 0 for the intercept."""
        free = self._free()
        kernel = self.kernel(self.points[free], self.points[free])
        return np.append(2 * kernel @ self.machine.dual_coef_[0][free], 0.0)

    def hessian(self, x: Array) -> Array:
        """(|S| + 1, |S| + 1) [[K_SS, 1], [1^T, 0]], whatever the poison. Raises NotUniqueError where S is empty."""
        free = self._free()
        if not free.any():
            raise NotUniqueError("no support vector is free: the published columns hold 9999")
        matrix = np.ones((int(free.sum()) + 1,) * 2)
        matrix[:-1, :-1] = self.kernel(self.points[free], self.points[free])
        matrix[-1, -1] = 0
        return matrix

    def _free(self) -> Mask:
        sizes = np.abs(self.machine.dual_coef_[0])
        free: Mask = (sizes >= FREE) & (sizes <= self.C - FREE)
        return free


def published_model(learner: Learner) -> PublishedModel:
    """The untrained model of the published results that has the settings of `learner`."""
    if isinstance(learner, RBFSVM):
        return PublishedSVM(learner.C, learner.gamma)
    if isinstance(learner, Logistic):
        return PublishedLogistic(learner.C)
    return PublishedRidge(learner.C) if isinstance(learner, Ridge) else PublishedSVM(learner.C)


def _rows(x: Array) -> Array:
    return np.column_stack([x, np.ones(len(x))])


def _ones_but_last(size: int) -> Array:
    return np.diag(np.append(np.ones(size - 1), 0.0))
