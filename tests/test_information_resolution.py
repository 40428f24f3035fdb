"""I(X; T + s Z): Gaussian truths, a critic written out by hand, invariance, and the fall in s."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.metrics.information.resolution import (
    GRIDS,
    Resolved,
    isotropic_axes,
    own_axes,
    read_at,
    resolved_information,
)

R, E, Q = 32, 4, 4


def gaussian(truth: float, n: int, d: int, rng: torch.Generator, share: float = 0.0) -> Resolved:
    """X ~ N(0, 1_d) of n images through noise such that I = d/2 log(1 + 1/variance) is `truth`.

    `share` of the noise is T's own, the rest Z's: in units of Z, which is added once.
    """
    variance = 1 / math.expm1(2 * truth / d)
    x = torch.randn(n, 1, d, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, R + E, d, generator=rng, dtype=torch.float64) * math.sqrt(share * variance)
    t = (x + noise) / math.sqrt((1 - share) * variance)
    z = torch.randn(n, E, Q, d, generator=rng, dtype=torch.float64)
    return resolved_information(t[:, :R], t[:, R:], z, (1.0,))


@pytest.mark.parametrize("d", [3, 7, 50, 128])
@pytest.mark.parametrize("truth", [1.0, 2.0, 3.0])
def test_gaussian_truth(truth: float, d: int) -> None:
    rng = torch.Generator().manual_seed(d)
    found = [gaussian(truth, 256, d, rng) for _ in range(4)]
    low, loo = (torch.stack(part).mean(1) for part in zip(*((f.low[0], f.loo[0]) for f in found), strict=True))
    error = float(low.std()) / math.sqrt(4) + float(found[0].low.std()) / 16
    assert float(low.mean()) - 2 * error <= truth <= float(loo.mean()) + 2 * error
    assert float(low.mean() + loo.mean()) / 2 == pytest.approx(truth, abs=0.1)
    assert float(found[0].width) <= 1


@pytest.mark.parametrize(("d", "least"), [(3, 2.55), (7, 2.45), (50, 2.25)])
def test_noise_of_its_own_costs_little(d: int, least: float) -> None:
    """Truth 3, 64 images, a fifth of the noise T's own: the true channel says 2.66, 2.60, 2.51 below."""
    rng = torch.Generator().manual_seed(d)
    found = torch.stack([gaussian(3.0, 64, d, rng, 0.2).low[0].mean() for _ in range(8)])
    assert least < float(found.mean()) < 2.75


def by_hand(draws: np.ndarray, fresh: np.ndarray, z: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
    """The specification's estimator, an image and a draw at a time, log densities in full."""
    n, passes, _ = draws.shape
    m = draws.mean(1)
    axes = np.linalg.eigh(np.cov(m.T, bias=True))[1]
    m, t, z = m @ axes, fresh @ axes, z @ axes
    own = (draws @ axes - m[:, None]).reshape(-1, m.shape[1])
    w = (own**2).sum(0) / (n * (passes - 1))
    lam = np.maximum(m.var(0) - w / passes, 0)
    a = lam / (lam + w / passes)
    variance = w + s**2 + a * w / passes
    expected = m.mean(0) + a * (m - m.mean(0))
    low, loo = np.zeros((2, n))
    for i in range(n):
        for e in range(fresh.shape[1]):
            for q in range(z.shape[2]):
                away = (t[i, e] + s * z[i, e, q] - expected) ** 2
                log_p = -0.5 * (away / variance + np.log(2 * np.pi * variance)).sum(1)
                p = np.exp(log_p)
                low[i] += log_p[i] - np.log(p.mean())
                loo[i] += log_p[i] - np.log(np.delete(p, i).mean())
    draws_of_each = fresh.shape[1] * z.shape[2]
    return low / draws_of_each, loo / draws_of_each


@pytest.mark.parametrize("s", [0.0, 0.7, 3.0])
def test_the_estimator_by_hand(s: float) -> None:
    rng = np.random.default_rng(0)
    mu = rng.normal(size=(12, 1, 5)) * [3, 2, 1, 0.3, 0]
    draws, fresh = (mu + rng.normal(size=(12, r, 5)) @ rng.normal(size=(5, 5)) * 0.5 for r in (6, 3))
    z = rng.normal(size=(12, 3, 2, 5))
    low, loo = by_hand(draws, fresh, z, s)
    found = resolved_information(*(torch.from_numpy(x) for x in (draws, fresh, z)), (s,))
    np.testing.assert_allclose(found.low[0], low, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.loo[0], loo, rtol=1e-9, atol=1e-9)
    assert float(found.width) == pytest.approx(float((loo - low).mean()))


def network_like(rng: torch.Generator, n: int = 96, d: int = 12) -> tuple[Tensor, Tensor]:
    """T of clean images (128, 8, d) and of a group (n, R + E, d): means with tails, noise of any covariance."""
    mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
    scale = torch.logspace(0.8, -0.5, d, dtype=torch.float64)

    def t(images: int, draws: int) -> Tensor:
        mean = torch.randn(images, 1, d, generator=rng, dtype=torch.float64).exp() * scale
        return mean + torch.randn(images, draws, d, generator=rng, dtype=torch.float64) @ mix

    return t(128, 8), t(n, R + E)


def curve(clean: Tensor, t: Tensor, kind: str) -> Resolved:
    axes = own_axes(clean) if kind == "own" else isotropic_axes(clean)
    z = torch.randn(len(t), E, Q, t.shape[-1], generator=torch.Generator().manual_seed(7), dtype=t.dtype)
    unit = t @ axes.T
    return resolved_information(unit[:, :R], unit[:, R:], z[..., -len(axes) :], GRIDS[kind])


@pytest.mark.parametrize("kind", ["own", "iso"])
def test_a_new_order_of_channels_changes_nothing(kind: str) -> None:
    clean, t = network_like(torch.Generator().manual_seed(0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    before, after = curve(clean, t, kind), curve(clean[..., order], t[..., order], kind)
    torch.testing.assert_close(before.low, after.low, atol=1e-9, rtol=0)
    torch.testing.assert_close(before.loo, after.loo, atol=1e-8, rtol=0)


def test_invertible_maps_change_nothing_of_the_network_s_own_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, t = network_like(rng)
    other = torch.linalg.qr(torch.randn(12, 12, generator=rng, dtype=torch.float64))[0]
    other = other * torch.logspace(-0.5, 0.5, 12, dtype=torch.float64)
    shift = torch.randn(12, generator=rng, dtype=torch.float64)
    for kind, exact in (("own", True), ("iso", False)):
        before, after = curve(clean, t, kind), curve(clean @ other + shift, t @ other + shift, kind)
        assert torch.allclose(before.low, after.low, atol=1e-7, rtol=0) == exact
    turn = torch.linalg.qr(torch.randn(12, 12, generator=rng, dtype=torch.float64))[0]
    before, after = curve(clean, t, "iso"), curve(3 * clean @ turn, 3 * t @ turn, "iso")
    torch.testing.assert_close(before.low, after.low, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["own", "iso"])
def test_it_falls_in_s_from_the_ceiling(kind: str) -> None:
    clean, t = network_like(torch.Generator().manual_seed(3))
    found = curve(clean, t, kind)
    values = found.low.mean(1).tolist()
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert max(values) <= math.log(96) + 1e-9
    if kind == "own":
        assert values[0] > 0.95 * math.log(96)
        assert values[-1] < 0.15 * values[0]
        assert float(found.width[0]) > 1 > float(found.width[-1])


def test_units_of_both_kinds_of_noise() -> None:
    """In A t the network's own noise is 1 (own), the mean variance of a feature is 1 (iso)."""
    clean, _ = network_like(torch.Generator().manual_seed(5))
    own = clean @ own_axes(clean).T
    apart = (own - own.mean(1, keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(apart.T @ apart / (128 * 7), torch.eye(12, dtype=torch.float64), atol=1e-9, rtol=0)
    axes = isotropic_axes(clean)
    assert float((clean @ axes.T).flatten(0, 1).var(0).mean()) == pytest.approx(1)
    torch.testing.assert_close(axes @ axes.T / (axes @ axes.T)[0, 0], torch.eye(12, dtype=torch.float64))


def test_images_that_have_nothing_to_do_with_their_t() -> None:
    rng = torch.Generator().manual_seed(0)
    t = torch.randn(64, R + E, 20, generator=rng)
    z = torch.randn(64, E, Q, 20, generator=rng)
    found = resolved_information(t[:, :R], t[:, R:], z, GRIDS["own"])
    assert float(found.low.mean(1).abs().max()) < 0.05
    assert float(found.loo.mean(1).abs().max()) < 0.05


def test_read_at_the_smallest_s_where_all_can_be_told() -> None:
    def made(*widths: float) -> Resolved:
        low = torch.ones(len(widths), 2)
        return Resolved((1.0, 2.0, 4.0)[: len(widths)], low, low + torch.tensor(widths)[:, None])

    assert read_at([made(0.9, 0.5, 0.1)]) == 1
    assert read_at([made(0.9, 0.5, 0.1), made(3.0, 1.5, 1.0)]) == 4
    assert read_at([made(0.9, 0.5, 0.1), made(3.0, 1.5, 1.1)]) is None
    assert read_at([made(0.9, math.inf, 0.1), made(1.5, 0.9, 0.1)]) == 4


def test_names_of_a_curve() -> None:
    found = Resolved((0.0, 1.5), torch.tensor([[3.0, 1], [1, 0]]), torch.tensor([[5.0, 1], [1, 1]]))
    assert found.metrics("iso", "fresh_train", "mi/control") == {
        "mi/control/xt_iso/s_0/fresh_train/low": 2.0,
        "mi/control/xt_iso/s_1.5/fresh_train/low": 0.5,
        "mi/control/xt_iso/s_0/fresh_train/loo": 3.0,
        "mi/control/xt_iso/s_1.5/fresh_train/loo": 1.0,
    }
    assert found.at(1.5).tolist() == [1, 0]
