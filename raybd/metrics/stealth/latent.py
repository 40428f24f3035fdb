"""Separability of poison from clean training images of the same label, in the features before the head."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raybd.models import Classifier
from raybd.models.batch_size import batch_size, batched
from raybd.utils.statistics import auroc

FOLDS = 5
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


@torch.inference_mode()
def latent_features(model: nn.Module, x: Tensor, batch: int = 512) -> Values:
    """Features, which the head reads, of the bytes `x` (N, C, H, W); logits of a network without a head."""

    def read(part: Tensor) -> Tensor:
        part = part.float() / 255
        found = model.features(model.normalise(part)) if isinstance(model, Classifier) else model(part)
        return found.float()

    size = batch_size(model, x, batch)
    found: Values = batched(read, x, size=size).cpu().double().numpy()
    return found


def separability(z: Values, poison: Mask) -> dict[str, float]:
    """Silhouette, linear-probe AUROC and spectral-signature AUROC of features (N, D) of one label; 5 of each kind."""
    from sklearn.metrics import silhouette_score

    spectral = spectral_scores(z)
    return {
        "silhouette": float(silhouette_score(z, poison)),
        "probe_auroc": probe_auroc(z, poison),
        "spectral_auroc": auroc(spectral[~poison], spectral[poison]),
    }


def probe_auroc(z: Values, poison: Mask) -> float:
    """AUROC of a logistic regression for poison, of each image by a fit on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = cross_val_predict(probe, z, poison, cv=FOLDS, method="decision_function")
    return auroc(scores[~poison], scores[poison])


def spectral_scores(z: Values) -> Values:
    """((z - mean) . v1)^2 (N,), v1 the first right singular vector (Tran et al., arXiv 1811.00636)."""
    centred = z - z.mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.asarray((centred @ direction) ** 2)


def enough_for_folds(poison: Mask) -> bool:
    """Whether there are enough of both kinds for every fold."""
    return min(int(poison.sum()), int((~poison).sum())) >= FOLDS
