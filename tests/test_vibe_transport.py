"""The E-step's transport against POT, its limits, and what must not change it."""

import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from raybd.defences.vibe.transport import Statistics, Transport, balance, measure, solve
from raybd.errors import InputError


def made(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    sharp, flat = (torch.randn(n, k, generator=rng, dtype=torch.float64) for _ in range(2))
    prior = (0.5 * torch.randn(k, generator=rng, dtype=torch.float64)).softmax(0)
    return (2 * sharp).log_softmax(1) + flat.log_softmax(1), prior


def sinkhorn(scores: Tensor, prior: Tensor, sharpness: float, sweeps: int) -> Tensor:
    """Duals (K,) of plain log-domain Sinkhorn."""
    n, duals = len(scores), torch.zeros_like(prior)
    for _ in range(sweeps):
        rows = -math.log(n) - (sharpness * scores + duals).logsumexp(1)
        duals = prior.log() - (sharpness * scores + rows[:, None]).logsumexp(0)
    return duals


@pytest.mark.parametrize(("n", "k"), [(300, 10), (500, 30)])
@pytest.mark.parametrize("sharpness", [25.0, 1.0])
def test_the_plan_is_pot_s(n: int, k: int, sharpness: float) -> None:
    scores, prior = made(n, k)
    plan = solve(scores, prior, sharpness, tolerance=1e-11)
    theirs = ot.bregman.sinkhorn_log(
        np.full(n, 1 / n), prior.numpy(), -scores.numpy(), 1 / sharpness, numItermax=200_000, stopThr=1e-11
    )
    rows = plan.rows(scores)
    assert (rows - n * torch.from_numpy(theirs)).abs().max() < 1e-6
    assert (rows.sum(1) - 1).abs().max() < 1e-12
    assert (rows.mean(0) - prior).abs().sum() < 1e-9
    assert plan.error == pytest.approx(float((rows.mean(0) - prior).abs().sum()), abs=1e-12)


def test_newton_and_sinkhorn_agree() -> None:
    scores, prior = made(500, 30)
    plan, plain = solve(scores, prior, 25.0), sinkhorn(scores, prior, 25.0, 3000)
    assert (plan.labels(scores) == (25 * scores + plain).argmax(1)).all()
    shift = plan.duals - plain
    assert (shift - shift.mean()).abs().max() < 1e-6
    assert plan.passes < 40


def test_a_sharp_plan_is_the_cheapest_assignment() -> None:
    scores, _ = made(300, 10)
    prior = torch.full((10,), 0.1, dtype=torch.float64)
    exact = torch.from_numpy(ot.emd(np.full(300, 1 / 300), prior.numpy(), -scores.numpy()))
    least, costs = float((exact * -scores).sum()), []
    for width in (1e-3, 1e-2, 0.04, 1.0):
        plan = solve(scores, prior, 1 / width)
        costs.append(float((plan.rows(scores) / 300 * -scores).sum()))
    assert costs == sorted(costs)
    assert costs[0] - least < 1e-6
    assert costs[1] - least < 1e-3
    agree = (solve(scores, prior, 1e3).labels(scores) == exact.argmax(1)).float().mean()
    assert agree >= 0.997


def test_a_blunt_plan_is_the_product_of_its_margins() -> None:
    scores, prior = made(300, 10)
    far = [float((solve(scores, prior, 1 / width).rows(scores) / prior - 1).abs().max()) for width in (10.0, 1e3)]
    assert far[1] < 0.02
    assert far[0] / far[1] > 30  # O(lambda)


def test_without_a_column_constraint_it_is_bayes() -> None:
    scores, _ = made(100, 5)
    rows = Transport(torch.zeros(5, dtype=torch.float64), 1.0, 0.0, 0, 0, 0).rows(scores)
    joint = scores.exp()
    assert torch.allclose(rows, joint / joint.sum(1, keepdim=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_class_that_is_dominated_everywhere_gets_its_share(dtype: torch.dtype) -> None:
    scores, prior = made(400, 6)
    scores[:, 2] -= 120.0  # 3000 in units of lambda: its column of the kernel is 0 in any precision
    plan = solve(scores.to(dtype), prior, 25.0)
    rows = plan.rows(scores.to(dtype))
    assert torch.isfinite(rows).all()
    assert (rows.double().mean(0) - prior).abs().max() < 1e-5
    assert plan.error < 1e-5


def test_chunks_and_shards_do_not_count() -> None:
    scores, prior = made(997, 12)
    whole = solve(scores, prior, 25.0)
    chunked = solve(lambda: scores.split(101), prior, 25.0)
    assert (whole.duals - chunked.duals).abs().max() < 1e-10
    assert (whole.labels(scores) == chunked.labels(lambda: scores.split(50))).all()

    def workers(duals: Tensor) -> Statistics:
        first, second, third = (measure(part, duals, 25.0) for part in scores.split(400))
        return first + (second + third)

    merged = balance(workers, prior, 25.0, None, 1e-10)
    assert (whole.duals - merged.duals).abs().max() < 1e-10


def test_many_classes_are_solved_from_part_of_the_curvature() -> None:
    scores, prior = made(3000, 150)
    for sharpness in (1.0, 25.0):
        plan = solve(scores, prior, sharpness)
        assert (plan.rows(scores).mean(0) - prior).abs().sum() < 1e-9
        assert plan.passes < 60


def test_half_precision_gives_nearly_the_same_labels() -> None:
    scores, prior = made(2000, 10)
    plan, half = solve(scores, prior, 25.0), solve(scores.half(), prior, 25.0)
    assert half.error < 1e-5
    assert (plan.labels(scores) == half.labels(scores.half())).float().mean() > 0.98


def test_a_warm_start_takes_fewer_passes() -> None:
    scores, prior = made(2000, 10)
    cold = solve(scores, prior, 25.0)
    warm = solve(scores + 0.001 * scores.sin(), prior, 25.0, start=cold.duals)
    assert warm.passes < cold.passes


def test_rows_may_be_moved_and_classes_renamed() -> None:
    scores, prior = made(300, 8)
    plan = solve(scores, prior, 25.0)
    moved = solve(scores + torch.arange(300)[:, None], prior, 25.0)
    assert (plan.duals - moved.duals).abs().max() < 1e-8
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    renamed = solve(scores[:, order], prior[order], 25.0)
    assert (renamed.duals - plan.duals[order]).abs().max() < 1e-8


def test_what_has_no_plan_is_refused() -> None:
    scores, prior = made(20, 4)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="lambda"):
            solve(scores, prior, bad)
    with pytest.raises(InputError, match="2 classes"):
        solve(scores[:, :1], prior[:1], 25.0)
    with pytest.raises(InputError, match="positive and sum to 1"):
        solve(scores, torch.tensor([0.5, 0.5, 0.0, 0.0]), 25.0)
    with pytest.raises(InputError, match="one sample"):
        solve(scores[:0], prior, 25.0)
    scores[3, 1] = math.nan
    with pytest.raises(InputError, match="finite"):
        solve(scores, prior, 25.0)
