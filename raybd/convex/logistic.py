"""Logistic regression: Newton-CG from beta to beta, each start predicted along the tangent of the path."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import expit

from raybd.convex.learner import Learner, LinearPath, ModelPath
from raybd.convex.newton import Product, conjugate_gradient, minimise
from raybd.convex.task import Array, BinaryTask

GRADIENT = 1e-9  # J curves by at least 1 in every direction, so phi is within this distance of the optimum
SOLVED = 1e-10  # relative residual of the solve that a slope rests on: its error is a few times as much
PREDICTED = 0.05  # ... and of a predictor, which Newton corrects anyway
NEAR = 0.5  # step in beta up to which a start is predicted; a farther one helps no more than 0, whose minimum is kept


@dataclass(frozen=True, kw_only=True)
class Logistic(Learner):
    """Loss ln(1 + exp(-sign * f)) in nats; the intercept is penalised, as in liblinear."""

    def loss(self, margins: Array) -> Array:
        """Log-losses in nats at `margins`, elementwise."""
        return np.logaddexp(0, -margins)

    def path(self, task: BinaryTask, betas: Sequence[float]) -> ModelPath:
        """One Newton-CG run a beta, to a gradient of norm 1e-9, in the order of `betas`: near ones should follow."""
        phis = [self._minimum(task, betas[0])]
        for before, beta in pairwise(betas):
            near = abs(beta - before) <= NEAR
            phis.append(self._next(task, phis[-1], before, beta) if near else self._minimum(task, beta))
        return LinearPath(task.to_features(np.stack(phis)))

    def influence(self, task: BinaryTask, beta: float, x: Array, sign: Array) -> Array:
        """(n,) -C dl_j a_j^T s with one solve H s = mean gradient on `x`, by conjugate gradients."""
        phi = self._minimum(task, beta)
        return self.influence_at(task, self.objective(task, beta).hessian(phi), phi, x, sign)

    def influence_at(self, task: BinaryTask, hessian: Product, phi: Array, x: Array, sign: Array) -> Array:
        """`influence` of a model `phi` (r + 1,) that is trained already."""
        slopes = _slopes(task.decisions_of(phi, x), sign) / len(sign)
        seen = conjugate_gradient(hessian, task.weighted_sum(x, slopes), SOLVED)
        return -self.C * _slopes(task.train_rows @ phi, task.train_sign) * (task.train_rows @ seen)

    def objective(self, task: BinaryTask, beta: float) -> "LogisticObjective":
        """J at `beta`, over the training points that have a weight."""
        seen = task.weights(beta) > 0
        return LogisticObjective(task.train_rows[seen], task.train_sign[seen], self.C * task.weights(beta)[seen])

    def _minimum(self, task: BinaryTask, beta: float) -> Array:
        """(r + 1,) the minimum at `beta`, from 0."""
        start = np.zeros(task.train_rows.shape[1])
        return task.kept(self, ("minimum", beta), lambda: minimise(self.objective(task, beta), start, GRADIENT))

    def _next(self, task: BinaryTask, phi: Array, before: float, beta: float) -> Array:
        """(r + 1,) the minimum at `beta`, from the minimum `phi` at a `before` that is near."""
        objective = self.objective(task, beta)
        # The path may bend too much for its tangent to lead anywhere better than where it starts.
        start = min(phi, self._predicted(task, phi, before, beta), key=objective.value)
        return minimise(objective, start, GRADIENT)

    def _predicted(self, task: BinaryTask, phi: Array, before: float, beta: float) -> Array:
        poison, sign = task.train_rows[task.poisoned], task.train_sign[task.poisoned]
        force = -self.C * (poison.T @ _slopes(poison @ phi, sign))
        hessian = self.objective(task, before).hessian(phi)
        return phi + (beta - before) * conjugate_gradient(hessian, force, PREDICTED)


@dataclass(frozen=True, eq=False)
class LogisticObjective:
    """sum of weights * ln(1 + exp(-sign * rows phi)) + |phi|^2 / 2."""

    rows: Array  # (N, r + 1)
    sign: Array  # (N,)
    weights: Array  # (N,)

    def value(self, phi: Array) -> float:
        """J at `phi`."""
        return float(self.weights @ np.logaddexp(0, -self.sign * (self.rows @ phi)) + phi @ phi / 2)

    def gradient(self, phi: Array) -> Array:
        """(r + 1,) gradient of J at `phi`."""
        return self.rows.T @ (self.weights * _slopes(self.rows @ phi, self.sign)) + phi

    def hessian(self, phi: Array) -> Product:
        """Products with the Hessian of J at `phi`."""
        share = expit(self.rows @ phi)
        curvature = self.weights * share * (1 - share)
        return lambda v: self.rows.T @ (curvature * (self.rows @ v)) + v


def _slopes(decisions: Array, sign: Array) -> Array:
    """dl/df of the log-loss."""
    return -sign * expit(-sign * decisions)
