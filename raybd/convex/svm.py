"""Support vector machines: libsvm on one kernel, its duals sharpened, its derivative from the optimality conditions."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from raybd.convex.kkt import SVMSolution, non_unique_reason, refined, solve_kkt
from raybd.convex.learner import Learner, LinearPath, ModelPath, NotUniqueError
from raybd.convex.task import Array, BinaryTask
from raybd.utils.constraints import Positive

FEW = 2  # free support vectors that hold an intercept poorly: at so small a C rounding may decide which are free
TOLERANCES = (1e-5, 1e-9)  # libsvm's, on the violation of the optimality conditions: the second where one was too loose
EXACT = 1e-9  # ... and ours, of what is made of its answer


@dataclass(frozen=True, kw_only=True)
class SVM(Learner):
    """Loss max(0, 1 - sign * f), free intercept: libsvm's problem, with a kernel."""

    @abstractmethod
    def kernel(self, task: BinaryTask) -> Array:
        """(n, n) kernel of the training points."""

    @abstractmethod
    def cross(self, task: BinaryTask, x: Array, u: Array) -> Array:
        """(n,) kernel of the training points with `x` (N, d), times `u` (N,)."""

    @abstractmethod
    def models(self, task: BinaryTask, duals: Array, intercepts: Array) -> ModelPath:
        """The models with signed `duals` (B, n) and `intercepts` (B,)."""

    @final
    def loss(self, margins: Array) -> Array:
        """Hinge losses at `margins`, elementwise."""
        return np.maximum(0, 1 - margins)

    @final
    def path(self, task: BinaryTask, betas: Sequence[float]) -> ModelPath:
        """One libsvm run a beta, on one kernel."""
        kernel = self.kernel(task)
        solutions = [self._solve(task, kernel, beta) for beta in betas]
        return self.models(task, np.stack([s.duals for s in solutions]), np.array([s.intercept for s in solutions]))

    @final
    def influence(self, task: BinaryTask, beta: float, x: Array, sign: Array) -> Array:
        """(n,) C * sign_j times what a dual does that grows, for points short of their margin; 0 for the others.

        A point short of its margin has its dual at weight * C, so its weight moves that dual by C and the free
        support vectors give way so as to keep their margins at 1. Raises NotUniqueError without free ones.
        """
        return self._influence(task, self._solve(task, self.kernel(task), beta), x, sign)

    @final
    def contributions(self, task: BinaryTask) -> Array:
        """(m,) as in the base class. Raises NotUniqueError also where a point on the margin would change sides."""
        if not task.poison_count:
            return np.zeros(0)
        solution = self._solve(task, self.kernel(task), 0.0)
        if 0 < (count := int(solution.free.sum())) <= FEW:
            warnings.warn(f"the slope of {self} hangs on {count} free support vector(s)", stacklevel=3)
        found = self._influence(task, solution, task.triggered_x, task.triggered_sign)[task.poisoned]
        if reason := non_unique_reason(solution, self.C * task.train_sign * (solution.bounded & task.poisoned)):
            raise NotUniqueError(reason)
        return found

    def _influence(self, task: BinaryTask, solution: SVMSolution, x: Array, sign: Array) -> Array:
        decisions = self.models(task, solution.duals[None], np.array([solution.intercept])).decision_function(x)[0]
        pull = np.where(sign * decisions < 1, -sign, 0.0) / len(sign)
        seen = self.cross(task, x, pull)
        given = solve_kkt(solution, seen[solution.free], float(pull.sum()))
        back = solution.kernel[:, solution.free] @ given[:-1] + given[-1]
        found: Array = self.C * task.train_sign * solution.bounded * (seen - back)
        return found

    def _solve(self, task: BinaryTask, kernel: Array, beta: float) -> SVMSolution:
        return task.kept(self, ("solution", beta), lambda: self._solve_anew(task, kernel, beta))

    def _solve_anew(self, task: BinaryTask, kernel: Array, beta: float) -> SVMSolution:
        """libsvm's answer, sharpened: which duals are free decides it, and a loose tolerance mostly finds those."""
        for tolerance in TOLERANCES:
            solution = refined(self._libsvm(task, kernel, beta, tolerance))
            if solution.violation <= EXACT:
                break
        return solution

    def _libsvm(self, task: BinaryTask, kernel: Array, beta: float, tolerance: float) -> SVMSolution:
        """libsvm drops points of weight 0 and numbers its support vectors without them: leave them out ourselves."""
        from sklearn.svm import SVC

        weights = task.weights(beta)
        seen = np.flatnonzero(weights > 0)
        inside = kernel if len(seen) == len(kernel) else kernel[np.ix_(seen, seen)]
        machine = SVC(kernel="precomputed", C=self.C, tol=tolerance, cache_size=1000)
        machine.fit(inside, task.train_sign[seen], sample_weight=weights[seen])
        duals = np.zeros(len(kernel))
        duals[seen[machine.support_]] = machine.dual_coef_[0]
        # The product that libsvm forms too: a dual at its limit is equal to it, bit for bit.
        return SVMSolution(kernel, task.train_sign, self.C * weights, duals, float(machine.intercept_[0]))


@dataclass(frozen=True, kw_only=True)
class LinearSVM(SVM):
    """The linear kernel."""

    def kernel(self, task: BinaryTask) -> Array:
        """(n, n) inner products, kept with the task."""
        return task.gram

    def cross(self, task: BinaryTask, x: Array, u: Array) -> Array:
        """(n,) inner products with the one point sum of u x."""
        return task.train_x @ (x.T @ u)

    def models(self, task: BinaryTask, duals: Array, intercepts: Array) -> ModelPath:
        """Weights: the duals' sum of training points."""
        return LinearPath(np.column_stack([duals @ task.train_x, intercepts]))


@dataclass(frozen=True, kw_only=True)
class RBFSVM(SVM):
    """The kernel exp(-gamma * |x - z|^2)."""

    gamma: Positive = 1.0

    def kernel(self, task: BinaryTask) -> Array:
        """(n, n) from the inner products kept with the task."""
        return task.kept(self, "kernel", lambda: self._kernel(task))

    def _kernel(self, task: BinaryTask) -> Array:
        squares = np.diag(task.gram)
        return np.exp(-self.gamma * np.maximum(0, squares[:, None] + squares - 2 * task.gram))

    def cross(self, task: BinaryTask, x: Array, u: Array) -> Array:
        """(n,) kernel with `x`, times `u`."""
        return rbf(task.train_x, x, self.gamma) @ u

    def models(self, task: BinaryTask, duals: Array, intercepts: Array) -> ModelPath:
        """Expansions over the training points."""
        return RBFPath(task.train_x, self.kernel(task), duals, intercepts, self.gamma)


@dataclass(frozen=True, eq=False)
class RBFPath(ModelPath):
    """f(x) = duals (B, n) times the kernel with `points` (n, d), plus intercepts (B,)."""

    points: Array
    kernel: Array  # (n, n) of the points
    duals: Array
    intercepts: Array
    gamma: float

    def decision_function(self, x: Array) -> Array:
        """(B, N) decision values of `x` (N, d)."""
        decisions: Array = self.duals @ rbf(self.points, x, self.gamma) + self.intercepts[:, None]
        return decisions

    def inner_products(self) -> Array:
        """(B, B) inner products in the kernel's space."""
        return self.duals @ self.kernel @ self.duals.T

    def gradient(self, x: Array) -> Array:
        """(B, d) gradients of the decision values at `x` (d,)."""
        weights = self.duals * rbf(self.points, x[None], self.gamma)[:, 0]
        found: Array = 2 * self.gamma * (weights @ (self.points - x))
        return found


def rbf(points: Array, x: Array, gamma: float) -> Array:
    """(n, N) exp(-gamma * |p - x|^2) of `points` (n, d) and `x` (N, d)."""
    apart = np.square(points).sum(1)[:, None] + np.square(x).sum(1) - 2 * points @ x.T
    kernel: Array = np.exp(-gamma * np.maximum(0, apart))
    return kernel
