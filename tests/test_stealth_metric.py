"""Channels, weights, features, STRIP and losses against closed forms, and both tiers on a trained network."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.stealth import Stealth, StealthFull, extras
from raybd.metrics.stealth.channels import (
    activation_overlap,
    activations,
    max_z_score,
    mean_activations,
    top_share,
    trigger_activated_change,
)
from raybd.metrics.stealth.detectors import loss_auroc, strip_auroc, strip_entropy
from raybd.metrics.stealth.latent import probe_auroc, separability, spectral_scores
from raybd.models.lipschitz import channel_lipschitz
from raybd.seeds import stream
from raybd.types import Data, Images
from tests.smoothing_cases import trained

FULL = StealthFull()


def test_t10_tac_of_a_linear_layer_is_the_weights_times_the_trigger() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    x, t = torch.rand(20, 3, 4, 4), torch.rand(3, 4, 4)
    change = trigger_activated_change(model, x, x + t)["1"]
    assert torch.allclose(change, (model[1].weight @ t.flatten()).abs(), atol=1e-5)


def test_tac_sees_a_layer_before_the_activation_that_overwrites_it() -> None:
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), norm, nn.ReLU(inplace=True)).eval()
    nn.init.ones_(model[0].weight)
    x = torch.full((2, 1, 3, 3), -2.0)
    assert float(trigger_activated_change(model, x, x + 1)["1"]) == pytest.approx(1, abs=1e-4)
    assert len(norm._forward_hooks) == 0


def test_hooks_go_even_when_the_network_fails() -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(RuntimeError):
        activations(nn.Sequential(layer), torch.rand(1, 3), torch.clone)
    assert len(layer._forward_hooks) == 0


def test_top_share_and_overlap_by_hand() -> None:
    assert top_share(torch.tensor([1.0] * 9 + [11.0])) == pytest.approx(11 / 20)
    assert math.isnan(top_share(torch.zeros(10)))
    a = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert activation_overlap(a, a) == 1
    assert activation_overlap(a, a.flip(0)) == 0
    assert activation_overlap(a, torch.tensor([4.0, 1.0, 3.0, 2.0])) == pytest.approx(1 / 3)


def test_channel_lipschitz_by_svd() -> None:
    torch.manual_seed(1)
    conv, norm, head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -2, 2)
    found = channel_lipschitz(nn.Sequential(conv, norm, nn.Flatten(), head))
    values = [np.linalg.svd(w.detach().numpy().reshape(3, 9), compute_uv=False)[0] for w in conv.weight]
    gain = norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(found["0"], torch.tensor(np.array(values)) * gain)
    assert torch.allclose(found["3"], head.weight.norm(dim=1))
    assert max_z_score(torch.tensor([1.0, 1.0, 1.0, 5.0])) == pytest.approx(1.5)
    assert math.isnan(max_z_score(torch.ones(4)))
    assert math.isnan(max_z_score(torch.ones(1)))


def clouds(apart: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z, poison = rng.normal(size=(300, 6)), np.arange(300) < 60
    z[poison, 0] += apart
    return z, poison


def test_features_that_are_apart_and_features_that_are_not() -> None:
    far, near = separability(*clouds(12)), separability(*clouds(0))
    assert far["silhouette"] > 0.6
    assert far["probe_auroc"] == pytest.approx(1)
    assert far["spectral_auroc"] == pytest.approx(1)
    assert abs(near["silhouette"]) < 0.05
    assert 0.35 < near["probe_auroc"] < 0.65
    assert 0.4 < near["spectral_auroc"] < 0.6


def test_the_probe_is_judged_on_images_that_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(1)
    assert probe_auroc(rng.normal(size=(60, 200)), np.arange(60) % 2 == 0) < 0.75  # 200 features fit any 60 labels


def test_spectral_scores_are_squared_lengths_along_the_main_direction() -> None:
    z, _ = clouds(12)
    variance, direction = np.linalg.eigh(np.cov(z.T, ddof=0))
    scores = spectral_scores(z)
    assert scores.mean() == pytest.approx(variance[-1])
    assert scores == pytest.approx(((z - z.mean(0)) @ direction[:, -1]) ** 2)


class Corner(nn.Module):
    """Says 1 for sure where the last pixel is white, and cannot tell otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        sure = (x[:, 0, -1, -1] >= 1).float() * 50
        return torch.stack([torch.zeros_like(sure), sure], 1)


def test_strip_finds_a_trigger_that_outlives_blending() -> None:
    rng = stream(0, "strip")
    others, clean = (torch.rand(n, 1, 4, 4, generator=rng) * 0.4 for n in (8, 20))
    triggered = clean.clone()
    triggered[..., -1, -1] = 1
    assert strip_entropy(Corner(), clean, others).tolist() == pytest.approx([np.log(2)] * 20)
    assert strip_entropy(Corner(), triggered, others).tolist() == pytest.approx([0] * 20, abs=1e-6)
    assert strip_auroc(Corner(), clean, triggered, others) == 1
    assert strip_auroc(Corner(), clean, clean, others) == 0.5


def test_poison_that_is_learnt_first_has_the_lower_loss() -> None:
    losses, poison = torch.tensor([0.1, 0.2, 3.0, 2.0]), torch.tensor([True, True, False, False])
    assert loss_auroc(losses, poison) == 1
    assert loss_auroc(losses, ~poison) == 0


def test_tier_a_on_a_trained_network() -> None:
    context = trained(0.1, 0)
    state = torch.get_rng_state()
    found = Stealth().measure(context)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    assert 3 < float(found["stealth/l0"]) <= 4
    assert found["stealth/linf"] == pytest.approx(1, abs=0.02)
    assert float(found["stealth/l2"]) ** 2 / 64 == pytest.approx(float(found["stealth/mse"]), rel=0.1)
    assert "stealth/ssim_valid11" not in found  # 8x8 images are smaller than its window
    assert float(found["stealth/ssim_reflect11_low"]) < float(found["stealth/ssim_reflect11"]) < 1
    assert found["stealth/poisoned"] == 130
    assert found["stealth/poison_rate"] == pytest.approx(130 / 1297)
    assert found["stealth/clean_label"] == 0
    assert float(found["stealth/confidence/triggered"]) > 0.9
    assert float(found["stealth/margin/clean"]) > 0
    assert float(found["stealth/gradient/margin/clean"]) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in context.model.parameters())


def test_a_poison_that_keeps_its_labels_is_called_clean_label() -> None:
    context = trained(0.1, 0)
    kept = replace(context.poisoned, true=context.poisoned.images.y)
    assert Stealth().measure(replace(context, poisoned=kept))["stealth/clean_label"] == 1
    assert "stealth/clean_label" not in Stealth().measure(trained(0.0, 0))


def test_a_trigger_that_changes_nothing_is_perfect() -> None:
    context = trained(0.1, 0)
    found = Stealth().measure(replace(context, triggered=Images(context.data.test.x, context.triggered.y)))
    assert (found["stealth/l0"], found["stealth/psnr"], found["stealth/unchanged"]) == (0, 100, 1)
    assert found["stealth/ssim_reflect11"] == pytest.approx(1)


def test_what_has_no_value_is_absent() -> None:
    """A trigger that changes nothing has no spectrum and no share of channels that it moves; 0 would enter means."""
    context = trained(0.1, 0)
    same = replace(context, triggered=Images(context.data.test.x, context.triggered.y))
    assert "stealth/high_frequency/trigger" in Stealth().measure(context)
    assert "stealth/high_frequency/trigger" not in Stealth().measure(same)
    for one, expected in ((context, True), (same, False)):
        assert any("tac_top_share" in name for name in FULL.measure(one)) == expected


def test_nothing_to_measure_gives_nothing() -> None:
    context = trained(0.1, 0)
    assert Stealth().measure(replace(context, measured=torch.zeros_like(context.measured))) == {}


def test_tier_b_on_a_trained_network() -> None:
    context = trained(0.1, 0)
    state = torch.get_rng_state()
    found = FULL.measure(context)
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    assert float(found["stealth/latent/probe_auroc"]) > 0.95
    assert 0.4 < float(found["stealth/latent/spectral_auroc"]) < 0.6  # no signature of this patch: 0.48 +- 0.015
    assert float(found["stealth/strip_auroc"]) > 0.9
    assert float(found["stealth/loss_auroc"]) > 0.5
    assert 0.1 < float(found["stealth/tac_top_share/body.0"]) <= 1
    assert 0 <= float(found["stealth/neuron_overlap/body.7"]) <= 1
    assert float(found["stealth/channel_lipschitz/head"]) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert mean_activations(context.model, torch.rand(2, 1, 8, 8)).keys() >= {"body.0", "head"}


def test_tier_b_without_poison_says_what_it_can() -> None:
    found = FULL.measure(trained(0.0, 0))
    assert not any("latent" in name or "loss" in name for name in found)
    assert "stealth/strip_auroc" in found


def test_before_the_last_epoch_only_losses_are_looked_at_and_only_early() -> None:
    context = replace(trained(0.1, 0), last=False, epoch=3)
    assert list(FULL.measure(context)) == ["stealth/loss_auroc"]
    assert FULL.measure(replace(context, epoch=8)) == {}


def test_extras_say_what_to_install(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FULL.problems(digits, 0.0) == []
    monkeypatch.setattr(extras, "MODULES", {"hessian": "no_such_module", "lpips": "no_such_module"})
    found = StealthFull(extras=("hessian", "lpips")).problems(digits, 0.0)
    assert len(found) == 2
    assert "pip install curvlinops-for-pytorch" in found[0]
    assert "pip install lpips" in found[1]
    assert "known: hessian, lpips" in StealthFull(extras=("hesian",)).problems(digits, 0.0)[0]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="curvlinops-for-pytorch"):
        extras.top_hessian_eigenvalue(nn.Linear(1, 1), torch.rand(1, 1), torch.zeros(1).long())
