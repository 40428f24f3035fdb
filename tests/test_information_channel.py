"""I(T;Y_pred) through a channel that is known, against closed forms."""

import math

import pytest
import torch
from torch import Tensor, nn

from raybd.metrics.information.bounds import MIEstimate, to_metrics
from raybd.metrics.information.gaussian_channel import between, channel_estimates, gaussian_bound, whitened_channel


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
        assert truth - 0.05 < found.lower < truth + 3 * found.lower_error
        assert found.upper == pytest.approx(truth, abs=0.08)
        assert found.value == pytest.approx(truth, abs=2 * found.error)
    else:
        assert math.isnan(found.value)
        assert found.lower == pytest.approx(7.10, abs=0.05)
        assert found.upper == pytest.approx(truth, abs=0.1)  # the Gaussian bound, tighter than 8.96 by leave-one-out
    assert found.lower < found.upper


def test_any_full_rank_head_tells_the_same() -> None:
    values = []
    for seed in range(3):
        head = head_of(seed=seed)
        found = estimate(whitened_by_the_head(head, 1500), head, 1.0)
        values.append((found.lower + found.upper) / 2)
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
    assert found.samples == 500
    assert found.lower - 3 * found.lower_error < 5 * math.log(2) < found.upper + 3 * found.upper_error


def through_channel(n: int, k: int, d: int, snr: float, between_images: float, rng: torch.Generator) -> MIEstimate:
    """Of s ~ N(0, snr 1_d), of which so much is between `n` images and the rest between `k` draws of one."""
    means = math.sqrt(snr * between_images) * torch.randn(n, 1, d, generator=rng)
    s = means + math.sqrt(snr * (1 - between_images)) * torch.randn(n, k, d, generator=rng)
    return channel_estimates(s[None], (s + torch.randn(n, k, d, generator=rng))[None])[0]


@pytest.mark.parametrize("between_images", [1.0, 0.9, 0.1])
@pytest.mark.parametrize(("d", "snr", "truth"), [(7, 10.0, 8.39), (10, 10.0, 11.99), (9, 1.0, 3.12), (9, 0.1, 0.43)])
def test_bounds_of_a_gaussian_hold_within_their_errors(d: int, snr: float, truth: float, between_images: float) -> None:
    """64 images, 4 draws each. With N K - 1 degrees of freedom the upper bound was low in three of four draws."""
    exact, rng = d / 2 * math.log(1 + snr), torch.Generator().manual_seed(0)
    assert exact == pytest.approx(truth, abs=0.005)
    draws = [through_channel(64, 4, d, snr, between_images, rng) for _ in range(40)]
    lower, upper, errors, upper_errors = (
        torch.tensor([getattr(draw, name) for draw in draws])
        for name in ("lower", "upper", "lower_error", "upper_error")
    )
    assert (lower - 2 * errors <= exact).float().mean() >= 0.9
    assert (upper + 2 * upper_errors >= exact).float().mean() >= 0.9
    assert upper.mean() >= exact - 0.03
    assert 0.6 < float(upper_errors.mean() / upper.std()) < 1.5
    known = [draw for draw in draws if not math.isnan(draw.value)]
    assert len(known) == (len(draws) if truth < 1 else 0)
    assert sum(abs(draw.value - exact) <= 2 * draw.error for draw in known) >= 0.85 * len(known)
    assert all(draw.ceiling == math.log(64) for draw in draws)
    assert [draw.saturated for draw in draws] == [truth > 8] * len(draws)


def test_a_middle_only_between_bounds_that_are_near() -> None:
    near, apart = between((1.0, 0.1), (1.19, 0.1), 64), between((1.0, 0.1), (1.3, 0.1), 64)
    assert near.value == pytest.approx(1.095)
    assert near.error == pytest.approx(0.195)  # half of 0.9 to 1.29
    assert between((1.2, 0.1), (1.1, 0.1), 64).value == pytest.approx(1.15)  # bounds may cross by chance
    assert math.isnan(apart.value)
    assert math.isnan(apart.error)
    names = {name.removeprefix("mi/ty/a/") for name in to_metrics({"ty/a": apart}, "mi")}
    assert names == {"lower", "lower/error", "upper", "upper/error", "ceiling", "saturated"}


def test_the_error_of_the_gaussian_bound_is_that_of_leaving_out_each_image() -> None:
    s = torch.randn(2, 12, 3, 4, generator=torch.Generator().manual_seed(0)).double()

    def log_det(part: Tensor) -> Tensor:
        return torch.stack([torch.logdet(torch.eye(4) + part[:, k].T.cov()) for k in range(3)]).mean() / 2

    for group, error in zip(s, gaussian_bound(s)[1], strict=True):
        left = torch.stack([log_det(torch.cat([group[:i], group[i + 1 :]])) for i in range(12)])
        expected = ((left - left.mean()).square().sum() * 11 / 12).sqrt()
        assert float(error) == pytest.approx(float(expected))


def test_gaussian_bound_is_exact_for_gaussians_and_never_low() -> None:
    rng = torch.Generator().manual_seed(5)
    found, error = gaussian_bound(3 * torch.randn(200, 50, 1, 10, generator=rng))
    truth = 5 * math.log(10)
    assert truth - 0.02 < float(found.mean()) < truth + 0.2  # with 50 samples the plain formula is 0.4 low
    assert float(error.mean()) == pytest.approx(float(found.std()), rel=0.3)
    assert gaussian_bound(torch.randn(1, 8, 4, 10))[0].isinf().all()  # too few images to know, however many draws
