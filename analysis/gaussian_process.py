"""A Gaussian process with a Matérn 5/2 kernel through noisy points.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006): prediction eq. 2.23-2.24, Matérn eq. 4.17,
leave-one-out eq. 5.12. Fitted by scikit-learn.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # over a second to import, and most questions to a map need none
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

Floats = NDArray[np.float64]
LENGTH_BOUNDS = (0.1, 10.0)  # of the kernel, in widths of the axis
VARIANCE_BOUNDS = (1e-2, 1e2)  # of the kernel, in variances of the values
MAX_FIT_POINTS = 150  # points to fit the kernel's settings on; all points are conditioned on


class GaussianProcess:
    """A function of d coordinates, known at n points with noise.

    Each axis is scaled to the unit interval, the values to mean 0 and deviation 1. The kernel's variance and one length
    an axis are those of the largest marginal likelihood.

    Args:
        points: (n, d) coordinates, none of which is the same for all.
        values: (n,) in any unit.
        noise: (n,) variances of the values' errors, above 0.
    """

    def __init__(self, points: Floats, values: Floats, noise: Floats) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        self.low, self.span = points.min(0), np.ptp(points, axis=0)
        self._mean, self._unit = float(values.mean()), float(values.std()) or 1.0
        self.points, self.values, self.noise = self.scaled(points), values, noise
        subset = np.linspace(0, len(points) - 1, min(len(points), MAX_FIT_POINTS)).round().astype(int)
        prior = ConstantKernel(1.0, VARIANCE_BOUNDS) * Matern(np.full(points.shape[1], 0.5), LENGTH_BOUNDS, nu=2.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is an axis without effect
            self.kernel: Kernel = self._regressor(prior, subset, "fmin_l_bfgs_b").kernel_
        self._fitted = self._regressor(self.kernel, np.arange(len(points)), None)

    def scaled(self, points: Floats) -> Floats:
        """(m, d) coordinates in widths of the axes."""
        scaled: Floats = (points - self.low) / self.span
        return scaled

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """(m,) mean and standard deviation of the function, without the noise, at `points` (m, d)."""
        mean, deviation = self._fitted.predict(self.scaled(points), return_std=True)
        return self._mean + self._unit * mean, self._unit * deviation

    def covariance(self, points: Floats) -> Floats:
        """(m, m) covariance of the function at `points` (m, d), given all values."""
        _, scaled = self._fitted.predict(self.scaled(points), return_cov=True)
        covariance: Floats = self._unit**2 * scaled
        return covariance

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """(n,) mean and deviation, with noise, of each value as the others predict it, the kernel left as it is."""
        covariance = self.kernel(self.points) + np.diag(self.noise / self._unit**2)
        inverse = np.linalg.inv(covariance)
        variance = 1 / np.diag(inverse)
        standard = (self.values - self._mean) / self._unit
        mean = standard - (inverse @ standard) * variance
        return self._mean + self._unit * mean, self._unit * np.sqrt(variance)

    def _regressor(
        self, kernel: "Kernel", index: NDArray[np.int_], optimizer: str | None
    ) -> "GaussianProcessRegressor":
        from sklearn.gaussian_process import GaussianProcessRegressor

        noise = self.noise[index] / self._unit**2
        regressor = GaussianProcessRegressor(kernel, alpha=noise, optimizer=optimizer)
        return regressor.fit(self.points[index], (self.values[index] - self._mean) / self._unit)
