"""ROC metrics of a detector's score: the AUROC, and the false positive rate at 95 % true positives."""

import numpy as np
from numpy.typing import NDArray

from raybd.utils.statistics import auroc

Values = NDArray[np.float64]
TPR = 0.95


def fpr_at_tpr(negative: Values, positive: Values, tpr: float = TPR) -> float:
    """Share of `negative` at or above the highest threshold that at least `tpr` of `positive` reach."""
    needed = int(np.ceil(tpr * len(positive) - 1e-9))
    threshold = np.sort(positive)[len(positive) - needed]
    return float((negative >= threshold).mean())


def roc_metrics(negative: Values, positive: Values) -> dict[str, float]:
    """AUROC (ties by half) and the false positive rate at 95 % true positives of a score that is high for `positive`.

    Empty where one of the two is.
    """
    if not len(negative) or not len(positive):
        return {}
    return {"auroc": auroc(negative, positive), "fpr_at_95_tpr": fpr_at_tpr(negative, positive)}
