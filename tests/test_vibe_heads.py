"""The heads against their formulas written out."""

from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from torch import Tensor

from raybd.defences.vibe import Vibe
from raybd.defences.vibe.heads import NARROWEST, Heads, Variant, VibeNetwork, cosine_spread
from raybd.errors import InputError
from raybd.models import Classifier, build_model

B, K, D, NU = 64, 12, 32, 10.0


def made(variant: Variant, dtype: torch.dtype = torch.float32) -> tuple[Heads, Tensor, Tensor]:
    torch.manual_seed(0)
    heads = Heads(K, D, variant, kappa=8.0, nu=NU, scale=0.5).to(dtype)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    return heads, 5 * torch.randn(B, D, dtype=dtype), torch.randint(0, K, (B,))


def clusters(cone: float, relative: bool) -> tuple[Tensor, Tensor, Heads]:
    """Features of K classes around unit vectors, moved along one axis by `cone`; their labels; heads."""
    torch.manual_seed(0)
    y = torch.arange(40 * K) % K
    v = 3 * torch.eye(K, D, dtype=torch.float64)[y] + 0.1 * torch.randn(len(y), D, dtype=torch.float64)
    v[:, -1] += cone
    return v, y, Heads(K, D, "A", 6.0, 6.0, 0.02, relative).double()


def naive(heads: Heads, v: Tensor, y: Tensor) -> Tensor:
    """ln p(y|l=j,x) (B, K) with h (B, K, D) and its logits (B, K, K) written out."""
    mu, eta = F.normalize(heads.clean, dim=1), F.normalize(heads.corrupted, dim=1)
    h = mu[None] + {"A": 0 * v, "F": v, "F_unit": F.normalize(v, dim=1)}[heads.variant][:, None]
    logits = NU * torch.einsum("id,bjd->bji", eta, h)
    return logits.log_softmax(2)[torch.arange(len(y)), :, y]


@pytest.mark.parametrize("variant", ["A", "F", "F_unit"])
def test_the_matrix_form_is_the_written_out_one(variant: Variant) -> None:
    heads, v, y = made(variant)
    v.requires_grad_()
    weights = torch.randn(B, K)
    grads = []
    for value in (heads.corrupted_log(v, y), naive(heads, v, y)):
        loss = (value * weights).sum()
        grads.append(torch.autograd.grad(loss, [heads.clean, heads.corrupted, v], allow_unused=True))
    assert (heads.corrupted_log(v, y) - naive(heads, v, y)).abs().max() < 2e-4  # at logits of a few hundred
    for ours, theirs in zip(*grads, strict=True):
        if ours is not None:
            assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("variant", ["A", "F", "F_unit"])
def test_given_labels_share_one_probability(variant: Variant) -> None:
    heads, v, _ = made(variant, torch.float64)
    total = sum(heads.corrupted_log(v, torch.full((B,), i)).exp() for i in range(K))
    assert (total - 1).abs().max() < 1e-12
    assert (heads.clean_log(v).exp().sum(1) - 1).abs().max() < 1e-12


def test_the_clean_head_is_its_formula_and_blind_to_length() -> None:
    heads, v, _ = made("A", torch.float64)
    cosine = F.cosine_similarity(v[:, None], heads.clean[None], dim=2)
    expected = (8.0 * cosine + (0.5 * heads.preference).softmax(0).log()).log_softmax(1)
    assert (heads.clean_log(v) - expected).abs().max() < 1e-12
    assert (heads.clean_log(7 * v) - expected).abs().max() < 1e-12


def test_only_f_minds_the_length_of_features() -> None:
    for variant, minds in (("A", False), ("F_unit", False), ("F", True)):
        heads, v, y = made(variant, torch.float64)  # type: ignore[arg-type]
        moved = (heads.corrupted_log(v, y) - heads.corrupted_log(3 * v, y)).abs().max()
        assert bool(moved > 1e-3) == minds


def test_an_image_that_foretells_its_label_explains_it_away() -> None:
    heads, _, y = made("F", torch.float64)
    v = F.normalize(heads.corrupted, dim=1)[y]
    loose, tight = (heads.corrupted_log(s * v, y).abs().max() for s in (1.0, 100.0))
    assert tight < 1e-12 < loose
    clean = heads.clean_log(v).softmax(1)
    assert (heads.joint_log(100 * v, y).softmax(1) - clean).abs().max() < 1e-12


def test_a_steep_head_stays_finite() -> None:
    heads, v, y = made("F")
    heads.nu = 40.0
    value = heads.corrupted_log(100 * v, y)
    assert torch.isfinite(value).all()
    assert (value <= 1e-2).all()


@pytest.mark.parametrize("nu", [41.0, 80.0, 800.0])
@pytest.mark.parametrize("variant", ["F", "F_unit"])
def test_steeper_heads_are_those_of_scipy_in_double(
    variant: Variant, nu: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybd.defences.vibe.heads.BLOCK", 5 * K * K)  # several blocks of rows
    heads, v, y = made(variant, torch.float64)
    heads.nu = nu
    mu, eta = (F.normalize(p.detach(), dim=1).numpy() for p in (heads.clean, heads.corrupted))
    x = v.numpy() / (np.linalg.norm(v.numpy(), axis=1, keepdims=True) if variant == "F_unit" else 1)
    logits = nu * (mu[None] + x[:, None]) @ eta.T
    expected = np.take_along_axis(logits, y.numpy()[:, None, None], 2)[:, :, 0] - logsumexp(logits, 2)
    assert np.abs(heads.corrupted_log(v, y).detach().numpy() - expected).max() < 1e-12 * nu
    assert torch.autograd.gradcheck(lambda v: heads.corrupted_log(v, y[:6]), v[:6].clone().requires_grad_())
    assert np.abs(heads.float().corrupted_log(v.float(), y).detach().numpy() - expected).max() < 1e-4 * nu


@pytest.mark.parametrize("cone", [0.0, 5.0, 30.0])
def test_relative_concentrations_mean_the_same_in_a_narrow_cone(cone: float) -> None:
    """Features v + c u, the larger c the nearer all cosines to 1: the same kappa gives as sure a head."""
    v, y, heads = clusters(cone, relative=True)
    heads.start(v, y, seed=0)
    sure = heads.clean_log(v).exp().gather(1, y[:, None]).median()
    assert 0.9 < sure < 0.999
    _, _, absolute = clusters(cone, relative=False)
    absolute.start(v, y, seed=0)
    assert bool(absolute.clean_log(v).exp().gather(1, y[:, None]).median() < 0.5) == (cone > 0)


def test_the_spread_is_its_definition_and_blind_to_lengths_and_to_some_wrong_labels() -> None:
    v, y, heads = clusters(5.0, relative=True)
    heads.start(v, y, seed=0)
    means = torch.stack([v[y == k].mean(0) for k in range(K)])
    cosines = np.array([[F.cosine_similarity(row, mean, dim=0).item() for mean in means] for row in v])
    own = cosines[np.arange(len(y)), y]
    expected = np.sort(own - (cosines.sum(1) - own) / (K - 1))[(len(y) - 1) // 2]  # of two in the middle, the lower
    assert float(heads.spread) == pytest.approx(expected, abs=1e-12)
    lengths = torch.rand(len(v), 1, dtype=v.dtype)
    assert float(cosine_spread(lengths * v, y, means)) == pytest.approx(expected, abs=1e-12)
    poisoned = torch.where(torch.arange(len(y)) % 10 == 0, 0, y)
    heads.start(v, poisoned, seed=0)
    assert float(heads.spread) == pytest.approx(expected, rel=0.15)


def test_relative_heads_are_loaded_with_their_spread() -> None:
    v, y, heads = clusters(5.0, relative=True)
    heads.start(v, y, seed=0)
    other = clusters(0.0, relative=True)[2]
    other.load_state_dict(heads.state_dict())
    assert torch.equal(other.clean_log(v), heads.clean_log(v))
    assert "spread" not in clusters(0.0, relative=False)[2].state_dict()  # older weights fit as they did


def test_features_that_tell_nothing_give_no_infinite_concentration() -> None:
    heads = Heads(K, D, "F", 3.0, 3.0, 0.02, relative=True)
    heads.start(torch.ones(B, D), torch.arange(B) % K, seed=0)
    assert float(heads.concentration(3.0)) == pytest.approx(3.0 / NARROWEST)
    assert torch.isfinite(heads.joint_log(torch.ones(B, D), torch.arange(B) % K)).all()


def test_prototypes_start_at_the_means_of_given_labels() -> None:
    heads, v, _ = made("A", torch.float64)
    y = torch.arange(B) % K
    heads.start(v, y, seed=3)
    for k in range(K):
        assert torch.allclose(heads.clean[k], v[y == k].mean(0), atol=1e-12)
    assert torch.equal(heads.clean, heads.corrupted)


def test_the_network_deploys_the_clean_head() -> None:
    torch.manual_seed(0)
    backbone = cast(Classifier, build_model("small_cnn", (1, 8, 8), K, (0.4,), (0.3,)))
    network = VibeNetwork(backbone, "A", 8.0, NU, 0.5).eval()
    for parameter in network.heads.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.rand(5, 1, 8, 8)
    v = network.raw(x)
    assert torch.allclose(network(x).log_softmax(1), network.heads.clean_log(v), atol=1e-5)
    assert network.feature_size == v.shape[1]
    linear = F.linear(network.features(network.normalise(x)), network.head.weight, network.head.bias)
    assert torch.allclose(network(x), linear, atol=1e-6)


def test_a_model_without_features_is_refused() -> None:
    for deploy in ("head", "linear", "retrained"):
        with pytest.raises(InputError, match="Classifier"):
            Vibe(deploy=deploy).network(torch.nn.Linear(2, 2))
