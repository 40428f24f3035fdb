"""TED: ranks by loops and by hand, pyod's score in closed form, and of trained networks with their twins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raybd.metrics import METRICS
from raybd.metrics.detection import Ted
from raybd.metrics.detection.ted import known_images, pca_scores, topological_ranks
from raybd.types import Images, MetricContext
from tests.smoothing_cases import trained as evidence


class Line(nn.Module):
    """A number v (N, 1, 1, 1): two ReLU layers see v and 1 - v; class 1 where v > 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.ReLU(), nn.ReLU(inplace=True)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        v = x.flatten(1)
        w = self.one(v)
        other = self.two(w * 0.5)
        return torch.cat([0.5 - v, other * 2 - 0.5], 1)


def line(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_ranks_by_hand() -> None:
    """Clean images at 0.1, 0.3 (class 0), 0.7, 0.9, 1.0 (class 1)."""
    known = line(0.1, 0.3, 0.7, 0.9, 1.0)
    clean, ranks = topological_ranks(Line(), known, line(0.55, 0.45, 0.0, 0.95))
    assert clean.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    # 0.55 is of class 1 and its nearest, 0.7, too; 0.45 is of class 0: 0.3 is nearest
    assert ranks.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0]]
    _, ranks = topological_ranks(Line(), line(0.1, 0.45, 0.9), line(0.55))
    assert ranks.tolist() == [[1, 1]]  # 0.45 is nearer than 0.9


def test_a_class_without_another_clean_image_is_behind_all() -> None:
    clean, ranks = topological_ranks(Line(), line(0.1, 0.2, 0.9), line(0.51, 0.3))
    assert clean.tolist() == [[0, 0], [0, 0], [2, 2]]
    assert ranks.tolist() == [[1, 1], [0, 0]]
    _, ranks = topological_ranks(Line(), line(0.1, 0.2), line(0.9))
    assert ranks.tolist() == [[2, 2]]


def test_ranks_by_loops(context: MetricContext) -> None:
    """In order of distance, the place of the first clean image of the class, counted from 0, itself left out."""
    model, images = context.model, context.data.test
    known, x = images.x[:25].float() / 255, images.x[25:40].float() / 255
    clean, ranks = topological_ranks(model, known, x)
    with torch.no_grad():
        classes, own = model(known).argmax(1).tolist(), model(x).argmax(1).tolist()
        head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        kept: list[Tensor] = []
        hook = head.register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
        model(torch.cat([known, x]))
        hook.remove()
    places = kept[0].double().numpy()
    for n in range(40):
        others = sorted((i for i in range(25) if i != n), key=lambda i: np.linalg.norm(places[i] - places[n]))
        label = (classes + own)[n]
        expected = next((rank for rank, i in enumerate(others) if classes[i] == label), len(others))
        assert (clean if n < 25 else ranks)[n - 25 * (n >= 25), -1] == expected
    assert clean.shape[1] == ranks.shape[1] >= 7  # three convolutions, three ReLUs, the head


def test_known_images_are_those_that_the_network_gets_right() -> None:
    x = (line(0.1, 0.9, 0.2, 0.8) * 255).round().to(torch.uint8)
    assert known_images(Line(), Images(x, torch.tensor([0, 0, 0, 1])), 2).y.tolist() == [0, 0]
    assert known_images(Line(), Images(x, torch.tensor([0, 0, 0, 1])), 9).x.flatten().tolist() == [26, 51, 204]
    assert len(known_images(Line(), Images(x, torch.tensor([1, 0, 1, 1])), 3)) == 3  # one is right: any


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_pca_scores_in_closed_form(rho: float) -> None:
    """Two features of deviation 1 and correlation rho: directions (1, 1) and (1, -1) / sqrt(2), (1 +- rho) / 2.

    For z = t (1, 1) / sqrt(2): |t - 1| / w1 + sqrt(t^2 + 1) / w2; the sign of the second does not matter there.
    """
    a, b = np.sqrt(1 + rho), np.sqrt(1 - rho)
    clean = np.array([[a, a], [-a, -a], [b, -b], [-b, b]]) / np.sqrt(2) * np.sqrt(2)
    shifted = clean * [3.0, 0.5] + [7.0, -2.0]  # scale and place are taken out
    w1, w2 = (1 + rho) / 2, (1 - rho) / 2
    t = np.array([0.0, 2.0, -3.0])
    z = np.stack([t, t], 1) / np.sqrt(2)
    if rho:  # with none any direction is principal
        expected = np.abs(t - 1) / w1 + np.sqrt(t**2 + 1) / w2
        np.testing.assert_allclose(pca_scores(shifted, z * [3.0, 0.5] + [7.0, -2.0]), expected)
    np.testing.assert_allclose(pca_scores(shifted, np.array([[7.0, -2.0]])), [1 / w1 + 1 / w2])


def test_what_no_clean_image_varies_in_weighs_most() -> None:
    """Ranks that are 0 for all clean images: pyod's weight is 0 or 1e-33; scores stay finite and in order."""
    clean = np.zeros((6, 2))
    scores = pca_scores(clean, np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 3.0]]))
    assert np.isfinite(scores).all()
    assert scores[0] < scores[2]
    clean[:, 0] = [0, 1, 0, 2, 0, 1]
    scores = pca_scores(clean, np.array([[1.0, 0.0], [1.0, 8.0]]))
    assert np.isfinite(scores).all()
    assert scores[1] > 2 * scores[0]


@pytest.fixture(scope="module")
def context() -> MetricContext:
    return replace(evidence(0.1, 0), twin=evidence(0.0, 0).model)


def test_a_score_is_the_image_s_own_and_repeats_itself(context: MetricContext) -> None:
    detector, state = Ted(points=30), torch.get_rng_state()
    x, order = context.data.test.x[:12].float() / 255, torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain = detector.scores(context.model, x, list(range(12)), context)
    mixed = detector.scores(context.model, x[order], order.tolist(), context)
    np.testing.assert_allclose(mixed, plain[order.numpy()], rtol=1e-9)
    assert len(detector.scores(context.model, x[:0], [], context)) == 0
    assert detector.measure(context) == detector.measure(context)
    assert torch.equal(state, torch.get_rng_state())
    assert METRICS["ted"] is Ted


def test_ted_tells_a_patch_better_on_the_backdoored_network(context: MetricContext) -> None:
    found = Ted(points=100).measure(context)
    assert float(found["ted/auroc"]) > 0.95  # 1.00, and 0.53 on the twin
    assert 0.4 < float(found["ted/null_auroc"]) < 0.65
