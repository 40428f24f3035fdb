"""The metric as a trial uses it: its controls, its names, its refusals, and the direction of the effect (T11)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from raybd.errors import InputError
from raybd.metrics.smoothing import summary
from raybd.metrics.smoothing.adversarial import pgd, universal
from raybd.metrics.smoothing.certificate import lipschitz_violations as found_by
from raybd.metrics.smoothing.controls import at_distance, is_patch, moved_patch, random_patch, trigger_mask
from raybd.metrics.smoothing.entropy import grassberger, plug_in_entropy
from raybd.metrics.smoothing.evaluation_points import evaluation_points, variants
from raybd.metrics.smoothing.noise import noise
from raybd.metrics.smoothing.sampling_plan import PLANS, VARIANTS
from raybd.metrics.smoothness import Smoothness, measure_smoothness
from raybd.seeds import stream
from raybd.types import Data, Images, MetricContext
from tests.smoothing_cases import evidence, poisoned, stamped, trained

EVERYTHING = Smoothness(points=20, sigmas=(0.2,), draws=32, variants=VARIANTS)


def pictures(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, 200, (n, 3, 8, 8), generator=stream(seed, "test")) / 255


def patched(clean: Tensor) -> Tensor:
    return stamped(clean * 255) / 255


def test_the_support_of_a_patch() -> None:
    clean = pictures()
    mask = trigger_mask(clean, patched(clean))
    assert mask.nonzero().tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]
    assert is_patch(mask)
    assert not is_patch(trigger_mask(clean, clean))
    assert not is_patch(trigger_mask(clean, 1 - clean))


def test_a_random_patch_stays_in_place_and_in_8_bits() -> None:
    clean = pictures()
    mask = trigger_mask(clean, patched(clean))
    made = random_patch(clean, mask, stream(0, "patch"))
    assert torch.equal(made[..., ~mask], clean[..., ~mask])
    assert (made[..., mask] != clean[..., mask]).float().mean() > 0.9
    assert torch.allclose((made * 255).round(), made * 255, atol=1e-4)
    assert len(made[..., mask].unique()) > 20


def test_a_moved_patch_is_the_same_patch_elsewhere() -> None:
    clean = pictures()
    triggered = patched(clean)
    mask = trigger_mask(clean, triggered)
    for seed in range(20):
        made = moved_patch(clean, triggered, mask, stream(seed, "place"))
        assert made is not None
        there = trigger_mask(clean, made)
        assert there.sum() == 4
        assert not (there & mask).any()
        assert (made[..., there] == 1).all()
    whole = torch.ones(8, 8, dtype=torch.bool)
    assert moved_patch(clean, 1 - clean, whole, stream(0, "place")) is None


def test_a_move_has_its_length_after_clipping() -> None:
    clean, lengths = pictures(), torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 1e3])
    made = at_distance(clean, torch.randn(clean.shape, generator=stream(1, "test")), lengths)
    assert made.min() >= 0
    assert made.max() <= 1
    reached = (made - clean).flatten(1).norm(dim=1)
    assert reached[:5].tolist() == pytest.approx(lengths[:5].tolist(), abs=1e-4)
    assert reached[5] > 5  # the corner of the box: no further


def test_equal_length_patterns_of_a_scene() -> None:
    at = evaluation_points(trained(0.1, 0), 30)
    made = variants(at, ("random_direction", "universal", "pgd"))
    for images in made.values():
        assert images.min() >= 0
        assert images.max() <= 1
        assert torch.allclose((images - at.clean).flatten(1).norm(dim=1), at.lengths, atol=1e-3)
    again = variants(evaluation_points(trained(0.1, 0), 10), ("random_direction",))["random_direction"]
    assert torch.equal(again, made["random_direction"][:10])  # fewer points are among more
    around = noise(at.seed, at.ids, 0, (1, 8, 8), torch.device("cpu"))[:, 0]
    along = torch.cosine_similarity((made["random_direction"] - at.clean).flatten(1), around.flatten(1))
    assert along.mean().abs() < 0.2  # no direction that is drawn again as noise around its point


def test_adversarial_patterns_reach_the_wanted_class() -> None:
    at = evaluation_points(trained(0.0, 0), 60)
    at.model.requires_grad_(True)

    def success(images: Tensor) -> float:
        with torch.inference_mode():
            return float((at.model(images) == at.model(images).amax(1, keepdim=True))[:, 0].double().mean())

    lengths = torch.full_like(at.lengths, 1.8)
    assert success(at.clean) <= 0.05
    assert success(pgd(at.model, at.clean, at.wanted, lengths)) >= 0.7
    direction = universal(at.model, at.train, at.train_wanted, 1.8)
    assert direction.norm() == pytest.approx(1.8, abs=1e-4)
    assert success(at_distance(at.clean, direction, lengths)) >= 0.3
    assert success(at_distance(at.clean, -direction, lengths)) <= 0.05
    assert all(p.grad is None for p in at.model.parameters())


def test_points_are_those_that_the_attack_counts() -> None:
    context = trained(0.1, 0)
    rows = torch.tensor(evaluation_points(context, 1000).ids)
    assert len(rows) == int(context.measured.sum())
    assert (context.data.test.y[rows] != 0).all()
    assert evaluation_points(context, 50).ids == tuple(rows[:50].tolist())
    assert evaluation_points(replace(context, seed=1), 50).ids != evaluation_points(context, 50).ids


def test_an_attack_of_two_members_has_points_of_both() -> None:
    context = trained(0.1, 0)
    both = Images(context.triggered.x.repeat(2, 1, 1, 1), context.triggered.y.repeat(2))
    pair = replace(context, triggered=both, measured=context.measured.repeat(2), members=("a", "b"))
    at = evaluation_points(pair, 2000)
    assert len(at.ids) == 2 * int(context.measured.sum())
    assert torch.equal(stamped((at.clean * 255).round().byte()), (at.triggered * 255).round().byte())


def test_every_variant_has_its_numbers_and_its_votes() -> None:
    context = replace(trained(0.1, 0), twin=trained(0.0, 0).model)
    found = EVERYTHING.measure(context)
    single = {name: value for name, value in found.items() if isinstance(value, float)}
    assert all(np.isfinite(value) for value in single.values())
    for variant in VARIANTS:
        votes = found[f"smoothness/{variant}/votes/sigma_0.2"]
        assert isinstance(votes, Tensor)
        assert votes.shape == (20, 10)
        assert (votes.sum(1) == 32).all()
        assert single[f"smoothness/{variant}/sigma_0.2"] == pytest.approx(grassberger(votes.long().numpy()).mean())
        assert single[f"smoothness/{variant}/plug_in/sigma_0.2"] == pytest.approx(plug_in_entropy(votes.numpy()).mean())
    paired = set(VARIANTS) - {"clean", "twin_clean", "target_class"}
    for variant in paired:
        assert -2.4 < single[f"smoothness/gap/{variant}/sigma_0.2"] < 2.4
        assert single[f"smoothness/lipschitz_violations/{variant}/sigma_0.2"] == 0
        clean = "twin_clean" if variant.startswith("twin") else "clean"
        apart = single[f"smoothness/{clean}/sigma_0.2"] - single[f"smoothness/{variant}/sigma_0.2"]
        assert single[f"smoothness/gap/{variant}/sigma_0.2"] == pytest.approx(apart)
    assert single["smoothness/triggered/wanted/sigma_0.2"] > 0.9
    assert single["smoothness/pgd/wanted/sigma_0.2"] > 0.9
    assert 0 < single["smoothness/eta/sigma_0.2"] <= 1
    assert 0 < single["smoothness/auroc_within_class/sigma_0.2"] < 1
    # The twin is another network, shown the same images: its gap is to its own clean points.
    own, twin = (found[f"smoothness/{v}/votes/sigma_0.2"] for v in ("clean", "twin_clean"))
    assert isinstance(own, Tensor)
    assert isinstance(twin, Tensor)
    assert not torch.equal(own, twin)
    assert single["smoothness/twin_triggered/wanted/sigma_0.2"] < 0.2


def test_a_twin_that_is_the_model_itself_changes_nothing() -> None:
    context = trained(0.0, 0)
    found = replace(EVERYTHING, variants=("triggered", "twin_triggered")).measure(replace(context, twin=context.model))
    for pair in (("clean", "twin_clean"), ("triggered", "twin_triggered")):
        own, twin = (found[f"smoothness/{v}/votes/sigma_0.2"] for v in pair)
        assert isinstance(own, Tensor)
        assert isinstance(twin, Tensor)
        assert torch.equal(own, twin)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_rest_alone() -> None:
    context, metric = trained(0.1, 0), Smoothness(points=30, variants=("triggered", "pgd"))
    state = torch.get_rng_state()
    first, second = metric.measure(context), metric.measure(context)
    for name, value in first.items():
        other = second[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) and isinstance(other, Tensor) else value == other
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in context.model.parameters())
    at, plan = evaluation_points(context, 30), metric.sampling_plan
    other_noise = measure_smoothness(context, replace(at, seed=7), plan)
    assert first["smoothness/clean/sigma_0.5"] != other_noise["smoothness/clean/sigma_0.5"]


def test_draws_and_sigmas_of_a_smaller_plan_are_among_those_of_a_larger() -> None:
    context = trained(0.1, 0)
    cheap = Smoothness(points=30).measure(context)
    fixed = Smoothness(points=30, sigmas=(0.5, 0.05), draws=32).measure(context)
    for variant in ("clean", "triggered"):
        a = cheap[f"smoothness/{variant}/first_votes/sigma_0.5"]
        b = fixed[f"smoothness/{variant}/votes/sigma_0.5"]
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        assert torch.equal(a, b)
        assert cheap[f"smoothness/{variant}/sigma_0.5"] == fixed[f"smoothness/{variant}/sigma_0.5"]


def test_a_trigger_that_changes_nothing_has_no_gap() -> None:
    context = trained(0.1, 0)
    idle = replace(context, triggered=Images(context.data.test.x, context.triggered.y))
    found = replace(EVERYTHING, variants=("triggered", "random_patch", "moved_patch")).measure(idle)
    assert found["smoothness/gap/triggered/sigma_0.2"] == 0
    assert found["smoothness/gap/triggered/auroc/sigma_0.2"] == 0.5
    assert found["smoothness/gap/triggered/p_value/sigma_0.2"] == 1
    assert not any("patch" in name or "eta" in name for name in found)


def test_a_broken_bound_is_reported(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # Distances that are far too small stand for any bug that parts votes from the images they belong to.
    monkeypatch.setattr(
        summary, "lipschitz_violations", lambda a, b, lengths, *rest: found_by(a, b, lengths / 1e3, *rest)
    )
    found = replace(EVERYTHING, variants=("triggered",)).measure(trained(0.1, 0))
    assert found["smoothness/lipschitz_violations/triggered/sigma_0.2"] > 0
    assert "break a bound" in caplog.text


def test_t9_training_mode_is_refused_by_the_metric() -> None:
    context = trained(0.1, 0)
    context.model.train()
    try:
        with pytest.raises(InputError, match="evaluation mode"):
            Smoothness().measure(context)
        assert context.model.training
    finally:
        context.model.eval()


def test_what_cannot_be_measured_is_refused_at_once(digits: Data) -> None:
    bad = Smoothness(sigmas=(0.1, 0.0, -1), draws=33, points=10**6, variants=("triggred", "clean"))
    found = bad.problems(digits, 0.0)
    assert len(found) == 5
    assert "triggred (known: " in found[0]
    assert "did you mean triggered?" in found[0]
    assert found[1:3] == [f"smoothness: sigmas must be above 0 and finite, got {sigma}" for sigma in (0, -1)]
    assert "draws must be even (the estimator needs it), got 33" in found[3]
    assert "points must be at most 449, the test images outside the largest class" in found[4]
    assert "draws must be at least 2, got 0" in Smoothness(draws=0).problems(digits, 0.0)[0]
    assert "points must be at least 2, got 1" in Smoothness(points=1).problems(digits, 0.0)[0]
    unknown_plan = Smoothness(plan="cheep").problems(digits, 0.0)  # type: ignore[arg-type]
    assert "cheap" in unknown_plan[0]
    assert Smoothness(sigmas=(float("nan"),)).problems(digits, 0.0)
    for plan in PLANS:
        assert Smoothness(plan=plan).problems(digits, 0.0) == []  # type: ignore[arg-type]


def test_fewer_images_than_points_are_refused_and_a_plan_takes_what_there_is() -> None:
    context = trained(0.1, 0)
    few = torch.zeros_like(context.measured)
    few[:4] = True
    with pytest.raises(InputError, match="wants 5 points"):
        Smoothness(points=5).measure(replace(context, measured=few))
    found = Smoothness().measure(replace(context, measured=few))
    assert len(found["smoothness/points"]) == 4  # type: ignore[arg-type]
    with pytest.raises(InputError, match="wants 2 points"):
        Smoothness().measure(replace(context, measured=torch.zeros_like(few)))


def test_only_plans_with_the_twin_want_one() -> None:
    assert not Smoothness().needs_twin
    assert not Smoothness.every_probe
    assert Smoothness(plan="standard").needs_twin
    assert Smoothness(variants=("twin_triggered",)).needs_twin
    assert Smoothness(variants=("twin_triggered",)).sampling_plan.variants == ("clean", "twin_clean", "twin_triggered")
    with pytest.raises(InputError, match="without it"):
        Smoothness(variants=("twin_triggered",)).measure(trained(0.1, 0))


def test_all_to_all_has_no_target_class() -> None:
    context = trained(0.1, 0)
    wanted = Images(context.triggered.x, (context.data.test.y + 1) % 10)
    everyone = replace(context, triggered=wanted, measured=torch.ones_like(context.measured))
    found = replace(EVERYTHING, variants=("triggered", "target_class", "universal")).measure(everyone)
    assert not any("target_class" in name for name in found)
    assert "smoothness/gap/universal/sigma_0.2" in found


def auroc_of(context: MetricContext, *names: str) -> list[float]:
    metric = Smoothness(points=200, sigmas=(0.4,), draws=128, variants=names)
    found = metric.measure(context)
    return [float(found[f"smoothness/gap/{name}/auroc/sigma_0.4"]) for name in names]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.calibration) for seed in (1, 2))])
def test_t11_a_strong_backdoor_smooths_and_its_controls_do_not(seed: int) -> None:
    """AUROC over 8 seeds: trigger 0.95 +- 0.02, random patch 0.53 +- 0.04, moved patch 0.44 +- 0.03, random direction
    0.29 +- 0.03, on clean networks 0.47 +- 0.01; every bound is four deviations away or more."""
    names = ("triggered", "random_patch", "moved_patch", "random_direction")
    triggered, *controls = auroc_of(trained(0.1, seed), *names)
    assert triggered >= 0.85
    assert triggered - max(controls) >= 0.25
    assert max(controls) < 0.7
    assert max(controls[1:]) < 0.57
    (clean,) = auroc_of(trained(0.0, seed), "triggered")
    assert 0.4 <= clean <= 0.53


def test_an_untrained_network_can_be_measured(digits: Data) -> None:
    from tests.smoothing_cases import Flat

    model = Flat(digits.mean, digits.std).eval()
    found = Smoothness(points=10).measure(evidence(model, digits, poisoned(digits.train, 0.1, 0)))
    assert np.isfinite(float(found["smoothness/gap/triggered/sigma_0.1"]))
