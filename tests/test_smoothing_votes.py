"""The votes against closed forms: planes, wedges, a ball, constants and a toy backdoor."""

import numpy as np
import pytest
import torch
from scipy.stats import ncx2, norm
from torch import Tensor, nn

from raybd.metrics.smoothing.entropy import grassberger, plug_in_entropy, shares_entropy
from raybd.metrics.smoothing.votes import count_votes
from raybd.seeds import stream
from tests.smoothing_cases import SHAPE, SIZE, Rule, half_space, plane, point, unit

POINTS, DRAWS = 64, 1024  # 65,536 votes in all
WEDGES = (0.5, 0.25, 0.15, 0.1)


def votes(model: nn.Module, x: Tensor, sigma: float, points: int = POINTS, draws: int = DRAWS) -> np.ndarray:
    """Counts (K,) of one image as so many points."""
    images = x.expand(1, points, *x.shape)
    return count_votes(model, images, range(points), [sigma], [draws], 0).votes.sum((0, 1, 2)).numpy()


def assert_multinomial(counts: np.ndarray, p: np.ndarray, entropy: float) -> None:
    n = counts.sum()
    assert (np.abs(counts / n - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    variance = ((p * np.log(p) ** 2).sum() - entropy**2) / n + (len(p) - 1) / (2 * n**2)
    assert abs(plug_in_entropy(counts) + (len(p) - 1) / (2 * n) - entropy) < 5 * np.sqrt(variance)


@pytest.mark.parametrize(
    ("margin", "sigma", "p", "entropy"),
    [
        (0.1, 0.1, 0.84134, 0.437433),
        (0.25, 0.1, 0.99379, 0.037746),
        (0.05, 0.25, 0.57926, 0.680530),
        (0.0, 0.2, 0.5, 0.693147),
    ],
)
def test_t1_half_space(margin: float, sigma: float, p: float, entropy: float) -> None:
    counts = votes(half_space(margin, point()), point(), sigma)
    assert norm.cdf(margin / sigma) == pytest.approx(p, abs=1e-5)
    assert shares_entropy(np.array([p, 1 - p])) == pytest.approx(entropy, abs=2e-5)
    assert_multinomial(counts, np.array([1 - p, p]), entropy)
    se = np.sqrt(p * (1 - p) / counts.sum()) / norm.pdf(margin / sigma)
    assert norm.ppf(counts[1] / counts.sum()) == pytest.approx(margin / sigma, abs=4.5 * se)


def wedge_rule(x: Tensor) -> Rule:
    plane = torch.linalg.qr(torch.randn(SIZE, 2, generator=stream(2, "test"), dtype=torch.float64)).Q
    edges = torch.tensor(WEDGES).cumsum(0)[:-1]

    def formula(z: Tensor) -> Tensor:
        a, b = ((z - x.flatten()) @ plane).T
        turn = torch.atan2(b, a) / (2 * torch.pi) % 1
        return nn.functional.one_hot(torch.bucketize(turn, edges.to(turn), right=True), len(WEDGES)).to(z)

    return Rule(formula)


def test_t2_wedges_have_one_entropy_at_every_sigma() -> None:
    x = point()
    small, large = (votes(wedge_rule(x), x, sigma) for sigma in (0.05, 0.5))
    assert np.array_equal(small, large)
    assert_multinomial(small, np.array(WEDGES), 1.207974)


def test_t3_orthogonal_planes_add_up() -> None:
    x, basis = point(), torch.linalg.qr(torch.randn(SIZE, 2, generator=stream(3, "test"), dtype=torch.float64)).Q
    sides = [plane(w, margin, x) for w, margin in zip(basis.T, (0.1, -0.05), strict=True)]

    def formula(z: Tensor) -> Tensor:
        quadrant = sum((side(z) <= 0).long() * 2**bit for bit, side in enumerate(reversed(sides)))
        return nn.functional.one_hot(torch.as_tensor(quadrant), 4).to(z)

    # In the order ++, +-, -+, --.
    assert_multinomial(votes(Rule(formula), x, 0.15), np.array([0.27616, 0.47135, 0.09328, 0.15921]), 1.223715)


@pytest.mark.parametrize(("stretch", "p"), [(1.0, 0.503), (1.01, 0.78582)])
def test_t4_a_ball_in_3072_dimensions_shows_one_percent_of_sigma(stretch: float, p: float) -> None:
    x, sigma = 0.1 * point(4, (3, 32, 32)), 0.5
    shift = float(x.square().sum()) / sigma**2
    radius = stretch * sigma * np.sqrt(x.numel() + shift)
    assert ncx2.cdf((radius / sigma) ** 2, x.numel(), shift) == pytest.approx(p, abs=5e-4)
    ball = Rule(lambda z: torch.stack([torch.full((len(z),), radius).to(z), z.norm(dim=1)], 1))
    share = votes(ball, x, sigma, 64, 128)[0] / 8192
    assert share == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / 8192))


def test_t5_constant_logits_are_one_class_and_ties_go_to_the_lowest() -> None:
    constant = Rule(lambda z: torch.tensor([1.0, 1.0, 0.5]).expand(len(z), 3))
    counts = votes(constant, point(), 0.3, 4, 32)
    assert counts.tolist() == [128, 0, 0]
    assert str(plug_in_entropy(counts)) == "0.0"


def test_t5_a_label_that_ignores_the_image_has_the_exact_expected_plug_in() -> None:
    p, rng = torch.tensor([0.6, 0.3, 0.1]), stream(5, "labels")

    def formula(z: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.multinomial(p, len(z), replacement=True, generator=rng), 3).to(z)

    images = torch.zeros(1, 2000, 1, 1, 1)
    counts = count_votes(Rule(formula), images, range(2000), [0.1], [16], 0).votes[0, 0].long().numpy()
    assert (counts.sum(1) == 16).all()
    assert plug_in_entropy(counts).mean() == pytest.approx(0.828787, abs=0.015)
    assert grassberger(counts).mean() == pytest.approx(0.929, abs=0.018)


def test_t6_toy_backdoor_has_the_gap_of_its_margin() -> None:
    x, sigma = point(), 0.1
    trigger = 0.3 * unit(1).view(SHAPE)
    images = torch.stack([x, x + trigger])[:, None].expand(2, POINTS, *SHAPE)
    counts = count_votes(half_space(0.1, x), images, range(POINTS), [sigma], [DRAWS], 0).votes[:, 0].sum(1).numpy()
    clean, triggered = plug_in_entropy(counts)
    assert clean - triggered == pytest.approx(0.437073, abs=5 * 0.0024)
    assert counts[1, 0] <= 12  # Poisson of mean 2.08: more has a chance of 1e-6


def test_t6_a_trigger_across_the_boundary_changes_no_vote() -> None:
    w = torch.tensor([1.0, 1.0, -2.0] * 16, dtype=torch.float64)
    trigger = torch.zeros(SIZE, dtype=torch.float64)
    trigger[0], trigger[1] = 0.5, -0.5
    assert w @ trigger == 0
    x = torch.randint(0, 2, SHAPE, generator=stream(6, "test")).double()
    images = torch.stack([x, x + trigger.view(SHAPE)])[:, None].expand(2, 8, *SHAPE)
    rule = Rule(lambda z: torch.stack([torch.zeros(len(z)).to(z), z @ w], 1))
    counts = count_votes(rule, images, range(8), [0.3], [512], 0).votes
    assert torch.equal(counts[0], counts[1])
