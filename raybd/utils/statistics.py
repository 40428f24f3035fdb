"""The area under the ROC curve, for whoever ranks images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(positive: ArrayLike, score: ArrayLike) -> float:
    """Chance that a positive has a higher `score` (N,) than another, ties by half; `positive` (N,) has both kinds."""
    from sklearn.metrics import roc_auc_score  # imported here: a second that no start of a sweep should wait for

    return float(roc_auc_score(np.asarray(positive), np.asarray(score)))


def auroc_of(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """`auroc` of two groups' scores (n,) and (m,)."""
    label = np.repeat([False, True], [len(negatives), len(positives)])
    return auroc(label, np.concatenate([negatives, positives]))
