"""SCALE-UP, IBD-PSC and Beatrix: scores by hand, against plain loops, and of trained networks with their twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.metrics.detection import Beatrix, IbdPsc, ScaleUp
from raybd.metrics.detection.beatrix import deviations, gram_limits, gram_matrices
from raybd.metrics.detection.ibd_psc import amplify, mean_confidence
from raybd.metrics.detection.scale_up import consistency
from raybd.types import Data, Images, MetricContext
from tests.smoothing_cases import Rule
from tests.smoothing_cases import trained as evidence

DETECTORS = (ScaleUp(points=30), IbdPsc(points=30), Beatrix(points=30))


@pytest.fixture(scope="module")
def context() -> MetricContext:
    return replace(evidence(0.1, 0), twin=evidence(0.0, 0).model)


def test_consistency_by_hand() -> None:
    """Class 1 while the mean is under 0.3: at 0.05 that holds for scales 3 and 5; at 1 every scale is clamped."""
    model = Rule(lambda z: torch.stack([z.mean(1), torch.full((len(z),), 0.3)], 1))
    x = torch.stack([torch.full((1, 2, 2), value) for value in (0.05, 0.02, 1.0)])
    assert consistency(model, x, (3.0, 5.0, 7.0, 9.0, 11.0)).tolist() == [0.4, 1.0, 1.0]
    assert consistency(model, x, (3.0,)).tolist() == [1.0, 1.0, 1.0]


def test_scales_that_amplify_nothing_are_refused(digits: Data) -> None:
    assert ScaleUp(scales=()).problems(digits, 0.0) == ["scale_up: scales must not be empty"]
    assert ScaleUp(scales=(2.0, 0.5)).problems(digits, 0.0) == ["scale_up: scales must be above 1, got 0.5"]
    assert ScaleUp().problems(digits, 0.0) == []


class TwoNorms(nn.Module):
    """(N, 2, 1, 1) -> (N, 2): two batch norms with mean 0 and variance 1 - eps, the second after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(2, eps=0.0), nn.BatchNorm2d(2, eps=0.0)
        nn.init.constant_(self.one.bias, 0.5)
        nn.init.constant_(self.two.bias, -0.25)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(x).relu()).flatten(1)
        return found


def test_amplified_norms_by_hand() -> None:
    model, x = TwoNorms(), torch.tensor([[1.0, 0.0], [0.2, 0.4]]).view(2, 2, 1, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    last, both = amplify(model, 1, 1.5), amplify(model, 2, 1.5)
    flat = x.flatten(1)
    torch.testing.assert_close(last(x), 1.5 * (flat + 0.5) - 1.5 * 0.25)
    torch.testing.assert_close(both(x), 1.5 * (1.5 * flat + 0.75) - 1.5 * 0.25)
    torch.testing.assert_close(amplify(model, 9, 1.5)(x), both(x))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    gaps = np.array([1.0, 0.2])  # of the logits of either image: its class's probability is 1 / (1 + exp(-gap))
    expected = np.mean([1 / (1 + np.exp(-factor * gaps)) for factor in (1.5, 2.25)], axis=0)
    np.testing.assert_allclose(mean_confidence(model, [last, both], x), expected, rtol=1e-6)


def test_the_first_number_is_the_least_that_breaks_clean_images() -> None:
    """In a network whose last norm's amplification turns every class, it is 1; where none does, all but one."""
    model, clean = TwoNorms(), Images(torch.tensor([[[[200]], [[100]]]], dtype=torch.uint8), torch.tensor([0]))
    assert IbdPsc().first_number(model, clean) == 1  # nothing is above: the largest that is not all
    wrong = Images(clean.x, torch.tensor([1]))
    assert IbdPsc().first_number(model, wrong) == 1
    deep = nn.Sequential(*(nn.BatchNorm2d(2) for _ in range(5)), nn.Flatten()).eval()
    assert IbdPsc().first_number(deep, clean) == 4
    nn.init.constant_(deep[2].bias[1:], 1.0)  # amplified with the two after it, it turns the class
    for norm in deep[:2]:
        nn.init.constant_(norm.bias[:1], 0.5)
    found = [
        number
        for number in range(1, 5)
        if int(amplify(deep, number, 1.5)(clean.x.float() / 255).argmax()) != int(deep(clean.x.float() / 255).argmax())
    ]
    truth = Images(clean.x, deep(clean.x.float() / 255).argmax(1))
    assert IbdPsc().first_number(deep, truth) == (found[0] if found else 4)


def test_a_network_without_norms_or_maps_is_refused(context: MetricContext) -> None:
    flat = Rule(lambda z: z[:, :10])
    for detector, reason in ((IbdPsc(), "has none"), (Beatrix(), "makes none")):
        with pytest.raises(InputError, match=reason):
            detector.measure(replace(context, model=flat, twin=flat))


def test_gram_matrices_and_deviations_by_loops() -> None:
    rng = np.random.default_rng(0)
    maps, orders = rng.normal(size=(6, 3, 4)), (1, 2, 3)
    found = gram_matrices(torch.tensor(maps), orders).numpy()
    for n in range(6):
        for i, p in enumerate(orders):
            for a in range(3):
                for b in range(3):
                    inner = sum(maps[n, a, m] ** p * maps[n, b, m] ** p for m in range(4))
                    expected = np.sign(inner) * abs(inner) ** (1 / p) if a <= b else 0.0
                    assert found[n, i, a, b] == pytest.approx(expected, abs=1e-12)
    limits = gram_limits(torch.tensor(found[:5]), 2.0)
    median = np.sort(found[:5], 0)[2]
    spread = np.sort(abs(found[:5] - median), 0)[2]
    total = 0.0
    for value, low, high in zip(found[5].flat, (median - 2 * spread).flat, (median + 2 * spread).flat, strict=True):
        total += max(low - value, 0) / abs(low + 1e-6) + max(value - high, 0) / abs(high + 1e-6)
    got = deviations(torch.tensor(found[5:]), limits)
    assert float(got) == pytest.approx(total / (9 / 2) / 3, rel=1e-9)


def test_gram_matrices_do_not_know_where_and_grow_with_the_square() -> None:
    maps = torch.randn(4, 5, 9, generator=torch.Generator().manual_seed(0)).double()
    plain = gram_matrices(maps, (1, 4, 8))
    turned = gram_matrices(maps[:, :, torch.randperm(9)], (1, 4, 8))
    torch.testing.assert_close(turned, plain, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(gram_matrices(3 * maps, (1, 4, 8)), 9 * plain, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_a_score_is_the_image_s_own_and_repeats_itself(detector: ScaleUp, context: MetricContext) -> None:
    state = torch.get_rng_state()
    x, order = context.data.test.x[:12].float() / 255, torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain = detector.scores(context.model, x, list(range(12)), context)
    mixed = detector.scores(context.model, x[order], order.tolist(), context)
    np.testing.assert_allclose(mixed, plain[order.numpy()], rtol=1e-5, atol=1e-7)
    assert detector.measure(context) == detector.measure(context)
    assert torch.equal(state, torch.get_rng_state())
    assert METRICS[detector.name] is type(detector)


def test_beatrix_tells_a_patch_better_on_the_backdoored_network(context: MetricContext) -> None:
    """AUROC 1.00 of two seeds, 0.79 and 0.80 on the twin, to which a patch is no stranger."""
    found = Beatrix(points=100).measure(context)
    assert float(found["beatrix/auroc"]) > 0.97
    assert float(found["beatrix/null_auroc"]) < 0.9
