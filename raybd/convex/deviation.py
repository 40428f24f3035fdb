"""The rho-nu path: change of norm and direction of a model by the poison."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybd.convex.learner import ModelPath
from raybd.convex.task import Array


@dataclass(frozen=True, eq=False)
class Deviation:
    """One line of the rho-nu figure, everything (B,); intercepts are left out."""

    betas: Array
    rho: Array  # |w*(beta)|, for kernels in their own space
    nu: Array  # (1 - cosine of w*(0) and w*(beta)) / 2: 0 same direction, 0.5 orthogonal, 1 opposite


def deviation(path: ModelPath, betas: Sequence[float]) -> Deviation:
    """rho and nu of the models of a `path` at `betas` (B,), of which the first is 0 (arXiv 2106.07214).

    The published RBF paths are wrong at beta = 0, to which nu refers: their duals went to the wrong points, since
    libsvm renumbers points once it drops those of weight 0.
    """
    products = path.inner_products()
    rho = np.sqrt(np.diag(products))
    return Deviation(np.asarray(betas, dtype=np.float64), rho, direction_change(products[0], rho[0], rho))


def direction_change(product: Array, before: float, after: Array) -> Array:
    """nu of vectors of norms `before` and `after` (B,) with the inner products `product` (B,)."""
    cosine: Array = product / (before * after)
    return (1 - cosine.clip(-1, 1)) / 2
