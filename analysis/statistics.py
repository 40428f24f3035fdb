"""Intervals of rates from test images, and the level of all intervals.

Source: Wilson, JASA 22 (1927) 209.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
TAIL = 0.05  # left out at either end: every interval holds 90 %
LEVEL = 1 - 2 * TAIL
Z = float(ndtri(1 - TAIL))


def wilson(successes: Floats, trials: Floats) -> tuple[Floats, Floats]:
    """Wilson's 90 % intervals of rates (n,): (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    p = successes / trials
    half = Z * np.sqrt(p * (1 - p) / trials + Z**2 / (4 * trials**2))
    middle, scale = p + Z**2 / (2 * trials), 1 + Z**2 / trials
    return np.maximum(0.0, (middle - half) / scale), np.minimum(1.0, (middle + half) / scale)
