"""The linear head against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from raybd.pretraining.linear_probe import fit_linear

N, D, K = 300, 12, 4


def made() -> tuple[Tensor, Tensor]:
    """Features of very different scales, one of them constant, of overlapping classes; their labels."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(0, K, (N,), generator=rng)
    v = torch.randn(N, D, generator=rng) + torch.randn(K, D, generator=rng)[y]
    v = v * torch.logspace(-2, 2, D) + 50
    v[:, 3] = 7
    return v, y


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_it_is_the_optimum_of_scikit_learn(penalty: float) -> None:
    v, y = made()
    weight, bias = fit_linear(v, y, K, penalty)
    scaler = StandardScaler().fit(v.double().numpy())
    theirs = LogisticRegression(C=1 / (N * penalty), tol=1e-9, max_iter=5000)
    theirs.fit(scaler.transform(v.double().numpy()), y.numpy())
    expected = theirs.predict_proba(scaler.transform(v.double().numpy()))
    ours = torch.addmm(bias.double(), v.double(), weight.double().T).softmax(1).numpy()
    assert np.abs(ours - expected).max() < 1e-3
    rate = np.abs(ours.argmax(1) - expected.argmax(1)).mean()
    assert rate == 0


def test_scale_and_origin_of_features_do_not_count() -> None:
    v, y = made()
    logits = [x.double() @ w.double().T + b for x in (v, 4 * v - 9) for w, b in [fit_linear(x, y, K)]]
    assert torch.allclose(logits[0].softmax(1), logits[1].softmax(1), atol=1e-3)


def test_a_class_without_labels_is_hardly_ever_answered() -> None:
    v, y = made()
    weight, bias = fit_linear(v, y, K + 1)
    assert weight.shape == (K + 1, D)
    assert (torch.addmm(bias, v, weight.T).argmax(1) < K).all()


def test_long_work_gives_signs_of_life() -> None:
    v, y = made()
    beats: list[int] = []
    fit_linear(v, y, K, heartbeat=lambda: beats.append(1))
    assert len(beats) > 5
