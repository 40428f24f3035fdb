"""I(T;Y_pred) through a channel that is known, against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from raybd.metrics.information.bounds import MIEstimate
from raybd.metrics.information.gaussian_channel import channel_estimates, gaussian_bound, whitened_channel


def head_of(classes: int = 10, features: int = 64, rank: int = 10, seed: int = 0) -> nn.Linear:
    rng, head = torch.Generator().manual_seed(seed), nn.Linear(features, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, rank, generator=rng) @ torch.randn(rank, features, generator=rng))
        head.bias.copy_(torch.randn(classes, generator=rng))
    return head


@torch.no_grad()
def estimate(t: Tensor, head: nn.Linear, noise: float, seed: int = 1) -> MIEstimate:
    """Of one group from T (N, K, D)."""
    rng = torch.Generator().manual_seed(seed)
    y = head(t + noise * torch.randn(t.shape, generator=rng))
    sent, received = whitened_channel(t, y, head, noise)
    return channel_estimates(sent[None], received[None])[0]


@torch.no_grad()
def whitened_by_the_head(head: nn.Linear, n: int, k: int = 1, seed: int = 2) -> Tensor:
    return torch.randn(n, k, head.in_features, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("noise", "truth"), [(2.0, 1.116), (1.0, 3.466), (0.5, 8.047)])
def test_known_channel(noise: float, truth: float) -> None:
    """T ~ N(0, 1): I = 5 ln(1 + 1 / noise^2) whatever the ten rows of the head."""
    assert truth == pytest.approx(5 * math.log(1 + noise**-2), abs=5e-4)
    found = estimate(whitened_by_the_head(head_of(), 4500), head_of(), noise)
    assert found.ceiling == pytest.approx(math.log(4500))
    if noise >= 1:
        assert truth - 0.05 < found.lower < truth + 3 * found.error
        assert found.upper == pytest.approx(truth, abs=0.08)
        assert found.value == pytest.approx(truth, abs=0.05)
    else:
        assert found.lower == pytest.approx(7.10, abs=0.05)
        assert found.upper == pytest.approx(truth, abs=0.1)  # the Gaussian bound, tighter than 8.96 by leave-one-out
    assert found.lower < found.upper


def test_any_full_rank_head_tells_the_same() -> None:
    values = []
    for seed in range(3):
        head = head_of(seed=seed)
        values.append(estimate(whitened_by_the_head(head, 1500), head, 1.0).value)
    assert max(values) - min(values) < 0.15


def test_directions_without_weight_are_dropped() -> None:
    """A head of rank 4: I = 2 ln(1 + 1 / noise^2), and no number that is not finite."""
    head = head_of(rank=4)
    t = whitened_by_the_head(head, 2000)
    assert whitened_channel(t, head(t), head, 1.0)[0].shape[-1] == 4
    assert estimate(t, head, 1.0).value == pytest.approx(2 * math.log(2), abs=0.05)


def test_the_channel_s_noise_is_white() -> None:
    head, t = head_of(), whitened_by_the_head(head_of(), 20000)
    y = head(t + 0.7 * torch.randn(t.shape, generator=torch.Generator().manual_seed(3)))
    sent, received = whitened_channel(t, y.detach(), head, 0.7)
    torch.testing.assert_close((received - sent)[:, 0].T.cov(), torch.eye(10), atol=0.05, rtol=0)


def test_bounds_hold_where_draws_share_an_image() -> None:
    """T = mean of the image + noise: draws of an image are near one another, and the bounds still bracket."""
    head, rng = head_of(), torch.Generator().manual_seed(4)
    means = math.sqrt(0.9) * torch.randn(500, 1, 64, generator=rng)
    t = means + math.sqrt(0.1) * torch.randn(500, 4, 64, generator=rng)
    found = estimate(t, head, 1.0)
    assert found.samples == 2000
    assert found.lower - 3 * found.error < 5 * math.log(2) < found.upper + 3 * found.error


def test_gaussian_bound_is_exact_for_gaussians_and_never_low() -> None:
    rng = torch.Generator().manual_seed(5)
    found = gaussian_bound(3 * torch.randn(200, 50, 10, generator=rng))
    truth = 5 * math.log(10)
    assert truth - 0.02 < float(found.mean()) < truth + 0.2  # with 50 samples the plain formula is 0.4 low
    assert gaussian_bound(torch.randn(1, 8, 10)).isinf().all()  # too few to know
