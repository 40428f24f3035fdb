"""I(X;T) by plug-in: closed forms, invariance, the null, and what noise must do."""

import math

import pytest
import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate, infonce
from raybd.metrics.information.plug_in_estimator import (
    noise_covariance,
    noise_ratio,
    plug_in_estimates,
    plug_in_scores,
    whitened_axes,
    whitening,
)

SIGNAL, D = 16, 64


def invertible(rng: torch.Generator) -> Tensor:
    """A turn and scales from 1/3 to 3."""
    turn = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64))[0]
    return turn * torch.logspace(-0.5, 0.5, D, dtype=torch.float64)


def linear(snr: float, n: int, passes: int, seed: int = 0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """T (groups, n, passes, D) = M [sqrt(snr) Z; 0] + M e with an invertible M, and M."""
    rng = torch.Generator().manual_seed(seed)
    mix = invertible(rng)
    means = torch.zeros(groups, n, 1, D, dtype=torch.float64)
    means[..., :SIGNAL] = math.sqrt(snr) * torch.randn(groups, n, 1, SIGNAL, generator=rng, dtype=torch.float64)
    t = means + torch.randn(groups, n, passes, D, generator=rng, dtype=torch.float64)
    return t @ mix, mix


def estimates(t: Tensor, passes: int, noiseless: Tensor | None = None) -> list[MIEstimate]:
    axes = whitened_axes(t[:, :, :passes])
    noiseless = None if noiseless is None else noiseless @ axes.T
    return plug_in_estimates(plug_in_scores(t[:, :, :passes] @ axes.T, t[:, :, passes:] @ axes.T, noiseless))


@pytest.mark.parametrize(("snr", "truth", "context"), [(0.5, 3.244, 2.81), (1.0, 5.545, 4.73)])
def test_linear_gaussian(snr: float, truth: float, context: float) -> None:
    """I = 8 ln(1 + snr); with 16 passes and 2048 images the specification's prototype found `context`."""
    assert truth == pytest.approx(8 * math.log(1 + snr), abs=5e-4)
    (found,) = estimates(linear(snr, 2048, 17)[0], 16)
    assert found.lower == pytest.approx(context, abs=0.15)
    (better,) = estimates(linear(snr, 2048, 33)[0], 32)
    assert found.lower < better.lower <= truth + 3 * better.error
    assert better.ceiling == better.upper == math.log(2048)


@pytest.mark.parametrize(("snr", "oracle"), [(0.5, 3.19), (1.0, 5.31)])
def test_linear_gaussian_with_the_true_critic(snr: float, oracle: float) -> None:
    rng = torch.Generator().manual_seed(0)
    z = math.sqrt(snr) * torch.randn(4500, SIGNAL, generator=rng)
    t = z + torch.randn(4500, SIGNAL, generator=rng)
    assert float(infonce(t @ z.T - z.square().sum(1) / 2).mean()) == pytest.approx(oracle, abs=0.08)


def test_a_silent_pass_stands_for_many_noisy_ones() -> None:
    """Where T without noise is mu, eight passes and it say more than 32 passes alone, and not too much."""
    t, _ = linear(0.5, 1024, 40)
    rng = torch.Generator().manual_seed(0)  # the same numbers as in `linear`
    mix = invertible(rng)
    noiseless = torch.zeros(1, 1024, D, dtype=torch.float64)
    noiseless[..., :SIGNAL] = (
        math.sqrt(0.5) * torch.randn(1, 1024, 1, SIGNAL, generator=rng, dtype=torch.float64)[:, :, 0]
    )
    (guided,) = estimates(t[:, :, :12], 8, noiseless @ mix)
    (plain,) = estimates(t[:, :, :36], 32)
    assert plain.lower < guided.lower <= 3.244 + 3 * guided.error
    (misled,) = estimates(t[:, :, :12], 8, torch.randn(1, 1024, D, generator=rng, dtype=torch.float64))
    assert misled.lower == pytest.approx(estimates(t[:, :, :12], 8)[0].lower, abs=0.03)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_invertible_maps_change_nothing(dtype: torch.dtype, bound: float) -> None:
    t, _ = linear(0.5, 256, 20, groups=2)
    other = invertible(torch.Generator().manual_seed(9))
    before, after = (estimates(x.to(dtype), 16, x.to(dtype).mean(2)) for x in (t, t @ other))
    for a, b in zip(before, after, strict=True):
        assert a.lower == pytest.approx(b.lower, abs=bound)


def test_null() -> None:
    """Images that have nothing to do with their T: 0 within 0.05, on draws that were not used."""
    t, _ = linear(1.0, 1024, 36)
    shuffled = t.clone()
    for r in range(36):
        shuffled[:, :, r] = t[:, torch.randperm(1024, generator=torch.Generator().manual_seed(r)), r]
    assert abs(estimates(shuffled, 32)[0].lower) < 0.05


@pytest.mark.parametrize("guided", [False, True])
def test_monotone_in_noise(guided: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(1, 256, 1, 8, generator=rng).relu()
    noise = torch.randn(1, 256, 36, 8, generator=rng)
    noiseless = means[:, :, 0] if guided else None
    found = [estimates(means + s * noise, 32, noiseless)[0] for s in (1e-3, 0.05, 0.1, 0.2, 0.4, 0.8, 100)]
    values = [f.lower for f in found]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert abs(values[-1]) < 0.05
    assert values[0] == pytest.approx(math.log(256), abs=0.01)
    assert [f.saturated for f in found] == [v > 0.95 * math.log(256) for v in values]
    assert found[0].saturated
    assert not found[-2].saturated


def test_groups_are_estimated_apart() -> None:
    weak, strong = linear(0.25, 300, 36)[0], linear(2.0, 300, 36)[0]
    both = estimates(torch.cat([weak, strong]), 32)
    alone = [estimates(t, 32)[0] for t in (weak, strong)]
    for a, b in zip(both, alone, strict=True):
        assert a.lower == pytest.approx(b.lower, abs=0.12)  # they share the axes, and nothing else


def test_whitening_and_noise_ratio_by_hand() -> None:
    mix = torch.tensor([[2.0, 0, 0], [1, 1, 0]]).double()  # a third coordinate without noise
    t = torch.randn(3, 50, 200, 2, generator=torch.Generator().manual_seed(0)).double() @ mix + 5
    torch.testing.assert_close(noise_covariance(t), mix.T @ mix, atol=0.15, rtol=0)
    axes = whitening(noise_covariance(t))
    assert axes.shape == (2, 3)
    torch.testing.assert_close(axes @ noise_covariance(t) @ axes.T, torch.eye(2).double())
    ratio = math.sqrt((5 + 1) / 3 / (25 + 2))  # noise variances 5, 1 and 0; mean squares 30, 26 and 25
    torch.testing.assert_close(noise_ratio(t), torch.full((3,), ratio).double(), atol=0.005, rtol=0)
