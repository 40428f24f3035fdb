"""Silhouettes of the classes and of the backdoor in T itself, not in a projection that changes with every fit."""

import math

import numpy as np
import torch
from torch import Tensor

from raybd.metrics.base import measured_only
from raybd.metrics.information.plug_in_estimator import noise_covariance, whitening


def silhouettes(draws: Tensor, labels: Tensor, flag: Tensor) -> dict[str, float]:
    """Mean silhouettes (Rousseeuw 1987), in [-1, 1], of T in units of its noise, from `draws` (M, R, D) of it.

    `labels` (M,) are those of training, `flag` (M,) is true of the backdoor. "within": the backdoor as part of the
    class that it is labelled as; "apart": the backdoor as a cluster of its own; "target": the clean images of that
    class where the backdoor is apart; "clean": all other classes. An image alone in its cluster has no silhouette
    (scikit-learn says 0) and does not count; groups without an image that counts are left out.
    """
    from sklearn.metrics import silhouette_samples

    t = (draws[:, 0].double() @ whitening(noise_covariance(draws[None])).T).cpu().numpy()
    labels, flag = labels.cpu(), flag.cpu()
    if not flag.any() or len(labels.unique()) < 2:
        return {}
    split = labels.clone()
    split[flag] = int(labels.max()) + 1
    whole, apart = (silhouette_samples(t, y.numpy()) for y in (labels, split))
    target = (labels == labels[flag][0]) & ~flag
    masks = {"apart": (apart, split, flag), "target": (apart, split, target), "clean": (apart, split, ~flag & ~target)}
    masks["within"] = whole, labels, flag
    means = {name: _mean_in_company(*part) for name, part in masks.items()}
    return measured_only(means)


def _mean_in_company(values: np.ndarray, clusters: Tensor, mask: Tensor) -> float:
    """The mean of `values` (M,) over `mask` (M,), without images that are alone in their cluster; nan of none."""
    counted = mask & (torch.bincount(clusters)[clusters] > 1)
    return float(values[counted.numpy()].mean()) if counted.any() else math.nan
