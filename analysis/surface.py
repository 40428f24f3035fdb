"""A smooth surface through noisy points: a Gaussian process with a Matérn 5/2 kernel, and the hull of its points.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006): prediction eq. 2.23-2.24, Matérn eq. 4.17,
leave-one-out eq. 5.12. Fitted by scikit-learn.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

Floats = NDArray[np.float64]
LENGTHS = (0.1, 10.0)  # of the kernel, in widths of the axis
HEIGHTS = (1e-2, 1e2)  # of the kernel, in variances of the values
MOST = 150  # points to fit the kernel's settings on; all points are conditioned on
EDGE = 1e-7  # how far outside its hull, in widths of an axis, a point still counts as inside (the solver's own)


class Surface:
    """A function of d coordinates, known at n points with noise.

    Each axis is scaled to the unit interval, the values to mean 0 and deviation 1. The kernel's height and one length
    an axis are those of the largest marginal likelihood.

    Args:
        points: (n, d) coordinates, none of which is the same for all.
        values: (n,) in any unit.
        noise: (n,) variances of the values' errors, above 0.
    """

    def __init__(self, points: Floats, values: Floats, noise: Floats) -> None:
        self.low, self.span = points.min(0), np.ptp(points, axis=0)
        self._mean, self._unit = float(values.mean()), float(values.std()) or 1.0
        self.points, self.values, self.noise = self.scaled(points), values, noise
        few = np.linspace(0, len(points) - 1, min(len(points), MOST)).round().astype(int)
        prior = ConstantKernel(1.0, HEIGHTS) * Matern(np.full(points.shape[1], 0.5), LENGTHS, nu=2.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an axis without effect
            kernel = self._process(prior, few, "fmin_l_bfgs_b").kernel_
        self._fitted = self._process(kernel, np.arange(len(points)), None)

    def scaled(self, points: Floats) -> Floats:
        """(m, d) coordinates in widths of the axes."""
        found: Floats = (points - self.low) / self.span
        return found

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """(m,) mean and standard deviation of the function, without the noise, at `points` (m, d)."""
        mean, deviation = self._fitted.predict(self.scaled(points), return_std=True)
        return self._mean + self._unit * mean, self._unit * deviation

    def covariance(self, points: Floats) -> Floats:
        """(m, m) covariance of the function at `points` (m, d), given all values."""
        _, found = self._fitted.predict(self.scaled(points), return_cov=True)
        result: Floats = self._unit**2 * found
        return result

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """(n,) mean and deviation, with noise, of each value as the others predict it, the kernel left as it is."""
        covariance = self._fitted.kernel_(self.points) + np.diag(self.noise / self._unit**2)
        inverse = np.linalg.inv(covariance)
        width = 1 / np.diag(inverse)
        standard = (self.values - self._mean) / self._unit
        mean = standard - (inverse @ standard) * width
        return self._mean + self._unit * mean, self._unit * np.sqrt(width)

    def _process(self, kernel: object, index: NDArray[np.int_], optimizer: str | None) -> GaussianProcessRegressor:
        noise = self.noise[index] / self._unit**2
        process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=optimizer)
        return process.fit(self.points[index], (self.values[index] - self._mean) / self._unit)


def inside(points: Floats, query: Floats) -> bool:
    """Whether `query` (d,) lies in the convex hull of `points` (n, d), its edge included.

    The axes should be scaled. A point is inside if it is a weighted mean of `points`: a linear program, which bears
    points that lie on a line or in a plane.
    """
    ends = extent(points, query, 0)
    return ends is not None and ends[0] - EDGE <= query[0] <= ends[1] + EDGE


def extent(points: Floats, query: Floats, axis: int) -> tuple[float, float] | None:
    """Where the line through `query` (d,) along `axis` enters and leaves the hull of `points` (n, d); None if never."""
    others = np.delete(points, axis, axis=1).T
    held = np.delete(query, axis)
    sides, room = np.vstack([others, -others]), np.concatenate([held + EDGE, EDGE - held])
    ones = np.ones((1, len(points)))
    found = [linprog(sign * points[:, axis], sides, room, ones, [1.0], method="highs") for sign in (1, -1)]
    ends = [float(one.fun) for one in found if one.fun is not None]
    return (ends[0], -ends[1]) if len(ends) == 2 else None
