"""The bounds with critics that are known to be best, against the specification's table and exact ceilings."""

import math

import pytest
import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate, infonce, leave_one_out, to_metrics
from raybd.metrics.information.sampled_infonce import TY, XT, SampledInfoNCE, sampled_infonce_bound

D = 20  # dimensions of both sides
# (truth, rho, {N: (InfoNCE, its deviation between batches)}, leave-one-out at 512)
TABLE = [
    (2, 0.42576, {64: (1.84, 0.21), 128: (1.89, 0.17), 512: (1.96, 0.08), 2048: (2.00, 0.04)}, 2.03),
    (4, 0.57418, {64: (3.08, 0.18), 128: (3.35, 0.15), 512: (3.70, 0.08), 2048: (3.87, 0.06)}, 4.24),
    (6, 0.67171, {64: (3.77, 0.12), 128: (4.22, 0.10), 512: (4.96, 0.07), 2048: (5.45, 0.05)}, 6.75),
    (8, 0.74207, {64: (4.02, 0.07), 128: (4.63, 0.07), 512: (5.69, 0.05), 2048: (6.55, 0.03)}, 9.71),
    (10, 0.79506, {64: (4.12, 0.03), 128: (4.79, 0.03), 512: (6.05, 0.03), 2048: (7.18, 0.02)}, 13.30),
]


def correlated(batches: int, n: int, rho: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and y (batches, n, D), each coordinate pair of correlation rho."""
    x, e = torch.randn(2, batches, n, D, generator=rng)
    return x, rho * x + math.sqrt(1 - rho**2) * e


def best_scores(x: Tensor, y: Tensor, rho: float) -> Tensor:
    """log p(y_i | x_j) / p(y_i) of correlated Gaussians, rows the queries y."""
    squares = x.square().sum(-1)[..., None, :] + y.square().sum(-1)[..., :, None]
    cross = y @ x.transpose(-1, -2)
    return -D / 2 * math.log(1 - rho**2) - (rho**2 * squares - 2 * rho * cross) / (2 * (1 - rho**2))


@pytest.mark.parametrize("n", [64, 128, 512, 2048])
@pytest.mark.parametrize(("truth", "rho", "rows", "above"), TABLE)
def test_optimal_critic_table(
    truth: float, rho: float, rows: dict[int, tuple[float, float]], above: float, n: int
) -> None:
    assert rho == pytest.approx(math.sqrt(1 - math.exp(-2 * truth / D)), abs=1e-5)
    rng, batches = torch.Generator().manual_seed(n), 200 if n <= 512 else 10
    step = max(1, 2**20 // n**2)
    parts = [best_scores(*correlated(step, n, rho, rng), rho) for _ in range(math.ceil(batches / step))]
    lower = torch.cat([infonce(scores).mean(-1) for scores in parts])
    upper = torch.cat([leave_one_out(scores).mean(-1) for scores in parts])
    expected, deviation = rows[n]
    assert float(lower.mean()) == pytest.approx(expected, abs=4 * deviation / math.sqrt(len(lower)) + 0.005)
    assert lower.mean() < truth < upper.mean()
    assert (lower <= math.log(n) + 1e-5).all()
    if n == 512:
        error = float(upper.std()) / math.sqrt(len(upper))
        assert float(upper.mean()) == pytest.approx(above, abs=4 * error + 0.005)


def test_two_independent_copies_add_up() -> None:
    """Data twice as wide hold twice as much; InfoNCE lacks a little more of the whole than of its parts."""
    rng, rho = torch.Generator().manual_seed(0), TABLE[0][1]
    scores = [best_scores(*correlated(4, 2048, rho, rng), rho) for _ in range(2)]
    parts = sum(float(infonce(score).mean()) for score in scores)
    joint = float(infonce(scores[0] + scores[1]).mean())
    assert joint == pytest.approx(3.87, abs=0.05)
    assert parts == pytest.approx(3.98, abs=0.05)
    assert 0 < parts - joint < 0.2


@pytest.mark.parametrize("n", [64, 128, 4500])
def test_a_perfect_critic_reaches_the_ceiling_and_no_more(n: int) -> None:
    assert float(infonce(100 * torch.eye(n)).mean()) == pytest.approx(math.log(n), abs=1e-4)


@pytest.mark.parametrize(("settings", "ceiling"), [(XT, 4.720), (TY, 5.235)])
def test_ceiling_of_the_paper_s_estimator(settings: SampledInfoNCE, ceiling: float) -> None:
    assert settings.ceiling == pytest.approx(ceiling, abs=5e-4)
    rng, batch = torch.Generator().manual_seed(0), settings.batch
    perfect = 100 * torch.eye(batch)
    drawn = [torch.randint(batch, (batch, settings.negatives), generator=rng) for _ in range(100)]
    u = torch.zeros(batch, 1)
    found = torch.stack([sampled_infonce_bound(lambda _u, _v, index: perfect.gather(1, index), u, u, d) for d in drawn])
    assert float(found.mean()) == pytest.approx(settings.ceiling, abs=0.02)
    assert ceiling < min(math.log(batch), math.log(settings.negatives + 1))


@pytest.mark.parametrize(
    ("settings", "steps"), [(XT, {4500: 6650, 5000: 7350, 9500: 13300}), (TY, {4500: 1250, 5000: 1500, 9500: 2500})]
)
def test_steps_of_the_paper_s_estimator(settings: SampledInfoNCE, steps: dict[int, int]) -> None:
    assert {n: settings.batches(n) * settings.epochs for n in steps} == steps


@pytest.mark.parametrize(("batch", "negatives", "ceiling"), [(400, 128, 4.652), (1024, 128, 4.775), (200, 128, 4.468)])
def test_other_ceilings_of_the_specification(batch: int, negatives: int, ceiling: float) -> None:
    settings = SampledInfoNCE(batch=batch, negatives=negatives, epochs=1, learning_rate=1e-4)
    assert settings.ceiling == pytest.approx(ceiling, abs=5e-4)


def test_leave_one_out_leaves_out_the_whole_source() -> None:
    """Two sources of two draws each: by hand, f_ii - log of the mean over the other source's two columns."""
    scores = torch.tensor([[5.0, 1, 2, 3], [1, 6, 4, 2], [0, 1, 7, 9], [3, 3, 8, 8]])
    expected = [5 - math.log((math.exp(2) + math.exp(3)) / 2), 6 - math.log((math.exp(4) + math.exp(2)) / 2)]
    expected += [7 - math.log((1 + math.exp(1)) / 2), 8 - math.log((math.exp(3) + math.exp(3)) / 2)]
    torch.testing.assert_close(leave_one_out(scores, 2), torch.tensor(expected))


def test_saturation_and_names() -> None:
    near, far = (MIEstimate(v, v, 5.0, 0.1, 100, math.log(100)) for v in (4.4, 4.3))
    assert near.saturated
    assert not far.saturated
    found = to_metrics({"xt/a": near}, "mi", ("upper", "saturated"))
    assert found == {"mi/xt/a": 4.4, "mi/xt/a/upper": 5.0, "mi/xt/a/saturated": 1.0}
