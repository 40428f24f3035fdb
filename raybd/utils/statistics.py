"""Statistics of samples: the area under the ROC curve and Student's t interval."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]


def auroc(negatives: Floats, positives: Floats) -> float:
    """Area under the ROC curve of scores `negatives` (n,) and `positives` (m,), both non-empty.

    It is the probability that a positive has the higher score of a random pair, ties counting one half.
    """
    from sklearn.metrics import roc_auc_score  # imported here: a second that no start of a sweep should wait for

    label = np.repeat([False, True], [len(negatives), len(positives)])
    return float(roc_auc_score(label, np.concatenate([negatives, positives])))


def t_interval(sample: Floats, level: float) -> tuple[float, float]:
    """Student's t confidence interval of the mean of `sample` (n,): mean -+ t((1 + level) / 2, n - 1) s / sqrt(n).

    Of a single number it is the whole line.
    """
    if len(sample) < 2:
        return -np.inf, np.inf
    mean = sample.mean()
    half = t_quantile((1 + level) / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(mean - half), float(mean + half)


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution of `freedom` degrees of freedom."""
    return float(stdtrit(freedom, probability))
