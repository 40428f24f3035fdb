"""Conjugate gradients, and Newton's method that solves its steps with them: no Hessian is ever formed."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from raybd.convex.task import Array

Product = Callable[[Array], Array]  # v -> H v
ARMIJO = 1e-4
MAX_STEPS = 100
ROUNDING = 1e-12  # relative error of a summed loss: a line search must not ask for a smaller decrease


class Objective(Protocol):
    """A strongly convex function with Hessian products."""

    def value(self, phi: Array) -> float:
        """The function at `phi`."""

    def gradient(self, phi: Array) -> Array:
        """Its gradient at `phi`."""

    def hessian(self, phi: Array) -> Product:
        """Products with its Hessian at `phi`."""


def conjugate_gradient(product: Product, target: Array, tolerance: float, limit: int | None = None) -> Array:
    """x with |H x - target| <= tolerance * |target| for a positive definite H (Hestenes & Stiefel 1952).

    `limit` bounds the products with H: by default ten times the dimension, after which the best x so far comes back.
    """
    x, residual = np.zeros_like(target), target.copy()
    direction, size = residual.copy(), float(residual @ residual)
    goal = tolerance**2 * size
    for _ in range(limit or 10 * len(target)):
        if size <= goal:
            break
        image = product(direction)
        step = size / float(direction @ image)
        x += step * direction
        residual -= step * image
        before, size = size, float(residual @ residual)
        direction = residual + (size / before) * direction
    return x


def minimise(objective: Objective, phi: Array, tolerance: float) -> Array:
    """The minimum, from `phi`, to a gradient of norm `tolerance`: truncated Newton (Dembo & Steihaug 1983).

    Raises RuntimeError where 100 steps do not get there.
    """
    for _ in range(MAX_STEPS):
        gradient = objective.gradient(phi)
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance:
            return phi
        # Superlinear near the end, yet no more exact than the last step has to be.
        forcing = max(min(0.1, np.sqrt(norm)), 0.3 * tolerance / norm)
        step = conjugate_gradient(objective.hessian(phi), -gradient, forcing)
        phi = phi + _step_length(objective, phi, gradient, step) * step
    raise RuntimeError(f"Newton's method stopped at a gradient of norm {norm:.2g} after {MAX_STEPS} steps")


def _step_length(objective: Objective, phi: Array, gradient: Array, step: Array) -> float:
    value, slope, length = objective.value(phi), float(gradient @ step), 1.0
    slack = ROUNDING * abs(value)
    while objective.value(phi + length * step) > value + ARMIJO * length * slope + slack:
        length /= 2
    return length
