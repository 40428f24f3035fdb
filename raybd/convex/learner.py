"""Base class of convex learners: the incremental objective, models along beta, learning curves, contributions.

J(w, b; beta) = C * [sum of losses of clean points + beta * sum of losses of poison points] + |w|^2 / 2
(arXiv 2106.07214, with sums, not means, and replacement poisoning). A learner writes its loss, how it is solved for
many betas, and what a point's weight does to a loss elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from raybd.convex.task import Array, BinaryTask
from raybd.errors import InputError
from raybd.types import coerce_floats
from raybd.utils.constraints import Positive, violations

BLOCK = 2**16  # decision values scored at once: copies that stay in the cache


class ModelPath(ABC):
    """The models of one learner at B values of beta, as f(x) = <w, x> + b in features or in an RKHS."""

    @abstractmethod
    def decision_function(self, x: Array) -> Array:
        """(B, N) decision values of `x` (N, d); above 0 is class 1."""

    @abstractmethod
    def inner_products(self) -> Array:
        """(B, B) inner products of the models' w; intercepts are left out."""

    @abstractmethod
    def gradient(self, x: Array) -> Array:
        """(B, d) gradients of the decision values at the one point `x` (d,)."""


@dataclass(frozen=True)
class LinearPath(ModelPath):
    """Linear models: `phis` (B, d + 1) hold the weights and, last, the intercept."""

    phis: Array

    def decision_function(self, x: Array) -> Array:
        """(B, N) decision values of `x` (N, d)."""
        return self.phis[:, :-1] @ x.T + self.phis[:, -1:]

    def inner_products(self) -> Array:
        """(B, B) inner products of the weights."""
        return self.phis[:, :-1] @ self.phis[:, :-1].T

    def gradient(self, x: Array) -> Array:
        """(B, d) the weights, wherever `x` is."""
        return self.phis[:, :-1]


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """A backdoor learning curve: everything (B,), losses in the unit of the learner's own loss."""

    betas: Array
    backdoor_loss: Array  # B(beta): mean loss on triggered test points towards the attacker's labels
    clean_loss: Array  # K(beta): mean loss on clean test points
    clean_accuracy: Array
    attack_success: Array  # share of triggered test points that get the attacker's label


@dataclass(frozen=True, kw_only=True)
class Learner(ABC):
    """A convex loss with an L2 penalty. The fields of a subclass are its settings."""

    C: Positive = 1.0  # 1 / lambda: weight of the summed losses against |w|^2 / 2

    def __post_init__(self) -> None:
        coerce_floats(self)
        if found := violations(self):
            raise InputError(found)

    @abstractmethod
    def loss(self, margins: Array) -> Array:
        """Losses at margins sign * f(x), elementwise."""

    @abstractmethod
    def path(self, task: BinaryTask, betas: Sequence[float]) -> ModelPath:
        """The models trained with each of `betas` (B,) as weight of the poison; 0 trains without it."""

    @abstractmethod
    def influence(self, task: BinaryTask, beta: float, x: Array, sign: Array) -> Array:
        """(n,) derivative of the mean loss on `x` (N, d), `sign` (N,) by each training point's weight, at `beta`.

        Koh & Liang (arXiv 1703.04730) times C, since a weight multiplies C * loss. Raises NotUniqueError where the
        optimum has no such derivative.
        """

    def contributions(self, task: BinaryTask) -> Array:
        """(m,) influence of each poison point on the loss of triggered points at beta = 0; see `slope_exact`."""
        return self.influence(task, 0.0, task.triggered_x, task.triggered_sign)[task.poisoned]

    @final
    def curve(self, task: BinaryTask, betas: Sequence[float]) -> LearningCurve:
        """B(beta) and K(beta) at each of `betas`, which may come in any order and exceed 1.

        Raises InputError where a beta is negative or not finite.
        """
        path = self.path(task, validated_betas(betas))
        return self.curve_of(task, betas, path.decision_function(task.test_x), path.decision_function(task.triggered_x))

    @final
    def curve_of(self, task: BinaryTask, betas: Sequence[float], tested: Array, triggered: Array) -> LearningCurve:
        """The curve of models with decisions `tested` (B, k) and `triggered` (B, l) on the two test sets."""
        clean_loss, clean_accuracy = self._scores(tested, task.test_sign)
        backdoor_loss, attack_success = self._scores(triggered, task.triggered_sign)
        numbers = np.asarray(betas, dtype=np.float64)
        return LearningCurve(numbers, backdoor_loss, clean_loss, clean_accuracy, attack_success)

    def _scores(self, decisions: Array, sign: Array) -> tuple[Array, Array]:
        step = max(1, BLOCK // len(sign))
        blocks = [decisions[start : start + step] for start in range(0, len(decisions), step)]
        losses = [self.loss(block * sign).mean(1) for block in blocks]
        shares = [accuracy(block, sign) for block in blocks]
        return np.concatenate(losses), np.concatenate(shares)


class NotUniqueError(ValueError):
    """The optimum, or its derivative, is not unique; the message says why."""


def accuracy(decisions: Array, sign: Array) -> Array:
    """(B,) share of `decisions` (B, N) on the side of `sign` (N,); a decision value of 0 is class 0."""
    hits = np.count_nonzero((decisions > 0) == (sign > 0), axis=1)
    return np.asarray(hits / len(sign))


def validated_betas(betas: Sequence[float]) -> list[float]:
    """`betas` as floats; raises InputError where one is negative or not finite, which no weight may be."""
    numbers = [float(beta) for beta in betas]
    wrong = [f"{beta:g}" for beta in numbers if not 0 <= beta < np.inf]
    if wrong or not numbers:
        raise InputError(f"betas {', '.join(wrong) or '(none)'} weigh nothing (allowed: one or more, from 0, finite)")
    return numbers
