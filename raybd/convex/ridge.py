"""Ridge regression on signs: the whole path in beta in closed form, from one factorisation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh, solve_triangular

from raybd.convex.learner import Learner, LinearPath, ModelPath
from raybd.convex.task import Array, BinaryTask


@dataclass(frozen=True, kw_only=True)
class Ridge(Learner):
    """Loss (1 - sign * f)^2, free intercept: scikit-learn's RidgeClassifier with alpha = 1 / (2 C)."""

    def loss(self, margins: Array) -> Array:
        """Squared losses at `margins`, elementwise."""
        return np.square(1 - margins)

    def path(self, task: BinaryTask, betas: Sequence[float]) -> ModelPath:
        """phi(beta) = phi0 + Z U diag(beta / (1 + beta mu)) r, after Woodbury: no refit for any beta.

        G = 2C A^T A + R over the clean rows A, Z = 2C G^-1 P^T over the poison rows P, P Z = U diag(mu) U^T and
        r = U^T (signs of P - P phi0). Cost: one Cholesky of d + 1, one eigendecomposition of the poison count.
        """
        factor = self.factor(task, 0.0)
        poison, poison_sign = task.train_rows[task.poisoned], task.train_sign[task.poisoned]
        start = self.optimum(task, factor, 0.0)
        half = solve_triangular(factor, poison.T, lower=True)
        mu, direction_change = eigh(2 * self.C * (half.T @ half))
        directions = solve_triangular(factor, half @ (2 * self.C * direction_change), lower=True, trans="T")
        step = np.asarray(betas, dtype=np.float64)[:, None]
        shares = step / (1 + step * mu) * (direction_change.T @ (poison_sign - poison @ start))
        return RidgePath(task.to_features(start), task.to_features(directions.T), shares)

    def influence(self, task: BinaryTask, beta: float, x: Array, sign: Array) -> Array:
        """(n,) -C dl_j a_j^T s with one solve H s = mean gradient on `x`; H is what the fit factorises."""
        factor = self.factor(task, beta)
        return self.influence_at(task, factor, self.optimum(task, factor, beta), x, sign)

    def influence_at(self, task: BinaryTask, factor: Array, phi: Array, x: Array, sign: Array) -> Array:
        """`influence` of a model `phi` (r + 1,) whose `factor` is at hand: two triangular solves."""
        slopes = 2 * (task.decisions_of(phi, x) - sign) / len(sign)
        seen = cho_solve((factor, True), task.weighted_sum(x, slopes))
        return -2 * self.C * (task.train_rows @ phi - task.train_sign) * (task.train_rows @ seen)

    def optimum(self, task: BinaryTask, factor: Array, beta: float) -> Array:
        """(r + 1,) weights and intercept on `task.train_rows` at `beta`, whose `factor` is at hand."""
        target = 2 * self.C * (task.train_rows.T @ (task.weights(beta) * task.train_sign))
        return np.asarray(cho_solve((factor, True), target))

    def factor(self, task: BinaryTask, beta: float) -> Array:
        """(r + 1, r + 1) lower Cholesky factor of the Hessian of J at `beta`; the intercept is not penalised."""
        poison = task.train_rows[task.poisoned]
        hessian = task.clean_scatter if beta == 0 else task.clean_scatter + beta * (poison.T @ poison)
        penalty = np.append(np.ones(len(hessian) - 1), 0.0)
        lower: Array = cho_factor(2 * self.C * hessian + np.diag(penalty), lower=True, overwrite_a=True)[0]
        return lower


@dataclass(frozen=True)
class RidgePath(ModelPath):
    """start (d + 1,) + shares (B, m) of directions (m, d + 1): decisions cost m a point and beta, not d."""

    start: Array
    directions: Array
    shares: Array

    @property
    def linear(self) -> LinearPath:
        """The same models with their weights written out."""
        return LinearPath(self.start + self.shares @ self.directions)

    def decision_function(self, x: Array) -> Array:
        """(B, N) decision values of `x` (N, d)."""
        base = x @ self.start[:-1] + self.start[-1]
        moves = self.directions[:, :-1] @ x.T + self.directions[:, -1:]
        decisions = self.shares @ moves
        decisions += base  # in place: for a thousand betas, memory costs more than arithmetic
        return decisions

    def inner_products(self) -> Array:
        """(B, B) inner products of the weights."""
        return self.linear.inner_products()

    def gradient(self, x: Array) -> Array:
        """(B, d) the weights, wherever `x` is."""
        return self.linear.gradient(x)
