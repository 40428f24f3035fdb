"""How far the features of a class fall apart (Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS
2018)."""

import torch
from torch import Tensor

FEWEST = 10  # images of a class whose spectrum is looked at


def class_spectra(features: Tensor, labels: Tensor) -> dict[str, float]:
    """How far the class falls apart that does so most, less the median class; of features (N, D) and labels (N,).

    spectrum/share: variance along the first principal axis over all variance, in [0, 1]. spectrum/bimodality: of the
    images along that axis, (skewness^2 + 1) / kurtosis, 5/9 of a uniform law, 1 of two points (Pearson 1916). NaN where
    no class has `FEWEST` images.
    """
    parts = [features[labels == label].double() for label in labels.unique()]
    found = torch.tensor([_spectrum(part) for part in parts if len(part) >= FEWEST], dtype=torch.float64)
    if not len(found):
        return {"spectrum/share": float("nan"), "spectrum/bimodality": float("nan")}
    excess = (found.amax(0) - found.quantile(0.5, dim=0)).tolist()
    return dict(zip(("spectrum/share", "spectrum/bimodality"), excess, strict=True))


def _spectrum(features: Tensor) -> tuple[float, float]:
    """The share of the first axis, and the bimodality along it, of features (N, D) of one class; 0 where all agree."""
    centred = features - features.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    if not float(sizes[0]):
        return 0.0, 0.0
    along = centred @ axes[0]
    second, third, fourth = ((along**power).mean() for power in (2, 3, 4))
    share = sizes[0] ** 2 / (sizes**2).sum()
    return float(share), float((third**2 / second**3 + 1) / (fourth / second**2))
