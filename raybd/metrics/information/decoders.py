"""Mutual information between T and a label, from classifiers of the label: bounds without a log N ceiling."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate

FOLDS = 5
NEIGHBOURS = 15
PRIOR_WEIGHT = 1e-6  # of the frequencies in every guess: none is infinitely wrong
MIN_PER_LABEL = 2 * FOLDS  # images: labels with fewer are left out


def decoded_information(
    features: Tensor, labels: Tensor, decoders: Sequence[str], seed: int, permutations: int = 0
) -> MIEstimate | None:
    """I(label; T) from `features` (N, D) and `labels` (N,): H(label) - min cross-entropy, on held-out folds.

    H(label) - CE <= I for any decoder, and the truth is at most H(label). The label's frequencies alone are one of
    the decoders, so the value is never below 0. `decoders` are names of `DECODERS`; T is standardised for them.
    `ceiling` is H(label); the standard error is over the images. `permuted` is the mean over `permutations` orders of
    the labels. None where fewer than two labels have `MIN_PER_LABEL` images: that cannot be measured, and is not 0.
    """
    kept = torch.bincount(labels)[labels] >= MIN_PER_LABEL
    x, (y, frequency) = features[kept].double().cpu().numpy(), _encode(labels[kept].cpu())
    if len(frequency) < 2:
        return None
    best = _best_gain(decoders, x, y, frequency, seed)
    rng = np.random.default_rng(seed)
    chance = [_best_gain(decoders, x, rng.permutation(y), frequency, seed).mean() for _ in range(permutations)]
    entropy = -float(frequency @ np.log(frequency))
    return MIEstimate(
        value=float(best.mean()),
        lower=float(best.mean()),
        upper=entropy,
        error=float(best.std(ddof=1) / math.sqrt(len(y))),
        samples=len(y),
        ceiling=entropy,
        permuted=float(np.mean(chance)) if chance else math.nan,
    )


def _best_gain(decoders: Sequence[str], x: np.ndarray, y: np.ndarray, frequency: np.ndarray, seed: int) -> np.ndarray:
    """The gain of each image (N,) by the decoder that gains most in all, 0 where none gains."""
    gains = [_log_likelihood_gain(name, x, y, frequency, seed) for name in decoders]
    best: np.ndarray = max([np.zeros(len(y)), *gains], key=np.mean)
    return best


def _encode(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Labels as 0, 1, ... and the frequency of each."""
    _, coded, counts = labels.unique(return_inverse=True, return_counts=True)
    return coded.numpy(), (counts / counts.sum()).double().numpy()


def _log_likelihood_gain(name: str, x: np.ndarray, y: np.ndarray, frequency: np.ndarray, seed: int) -> np.ndarray:
    """log p(label | T) - log p(label) of each image (N,), by the decoder `name` fitted to the other folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    guess = cross_val_predict(_decoder(name), x, y, cv=folds, method="predict_proba")
    weight = 1 / (NEIGHBOURS + 1) if name == "neighbours" else PRIOR_WEIGHT  # so many neighbours cannot be sure
    guess = (1 - weight) * guess + weight * frequency
    gain: np.ndarray = np.log(guess[np.arange(len(y)), y] / frequency[y])
    return gain


@cache
def _decoder(name: str) -> Any:
    # scikit-learn takes a second to import, and only trials that measure need it.
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    decoder = {
        "logistic": LogisticRegression(max_iter=1000),
        "regularised_logistic": LogisticRegression(C=0.01, max_iter=1000),
        "gaussian": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "neighbours": KNeighborsClassifier(NEIGHBOURS),
    }[name]
    return make_pipeline(StandardScaler(), decoder)
