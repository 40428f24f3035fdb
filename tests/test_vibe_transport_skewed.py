"""The E-step's transport under skewed priors and sharp scores: it converges, never descends, and says where not.

A plan is the solution exactly where its rows are softmax(lambda J + g) and its columns the prior: both are computed
here in float64, apart from the code under test.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from raybd.defences.vibe import em as em_module
from raybd.defences.vibe.ascent import _DualAscent
from raybd.defences.vibe.em import Em, FrozenFeatures
from raybd.defences.vibe.heads import Heads
from raybd.defences.vibe.transport import Statistics, balance, measure, solve
from raybd.errors import DivergedError, InputError
from tests.test_vibe_em import SHORT
from tests.test_vibe_synthetic import D, K, drawn
from tests.test_vibe_transport import made, sinkhorn


def soft(n: int, k: int, seed: int) -> Tensor:
    return made(n, k, seed)[0]


def sharp(n: int, k: int, seed: int, kappa: float = 10.0, size: int = 64) -> Tensor:
    """ln p(l|x) + ln p(y|l) of von Mises-Fisher heads on noisy directions, a tenth of the labels wrong."""
    rng = torch.Generator().manual_seed(seed)
    mu = normalize(torch.randn(k, size, generator=rng, dtype=torch.float64), dim=1)
    true = torch.randint(k, (n,), generator=rng)
    noise = torch.randn(n, size, generator=rng, dtype=torch.float64) / math.sqrt(size)
    given = torch.where(torch.rand(n, generator=rng) < 0.9, true, torch.randint(k, (n,), generator=rng))
    clean = (kappa * normalize(mu[true] + noise, dim=1) @ mu.T).log_softmax(1)
    return clean + (kappa * mu @ mu.T).log_softmax(1).T[given]


def dirichlet(k: int, alpha: float, seed: int) -> Tensor:
    drawn = np.random.default_rng(seed).dirichlet(np.full(k, alpha)) + 1e-30
    return torch.from_numpy(drawn / drawn.sum())


def column_error(scores: Tensor, duals: Tensor, sharpness: float, prior: Tensor) -> float:
    return float(((sharpness * scores.double() + duals).softmax(1).mean(0) - prior).abs().sum())


@pytest.mark.parametrize("scores", [soft, sharp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plan_that_stalled_converges(scores: Callable[[int, int, int], Tensor], dtype: torch.dtype) -> None:
    for seed in range(6):
        j, prior = scores(999, 43, seed).to(dtype), dirichlet(43, 0.5, seed)
        plan = solve(j, prior, 100.0)
        assert plan.converged
        assert plan.passes < 150
        assert column_error(j, plan.duals, 100.0, prior) < (2e-6 if dtype == torch.float32 else 2e-10)


@pytest.mark.parametrize("scores", [soft, sharp])
@pytest.mark.parametrize("k", [2, 10, 100])
@pytest.mark.parametrize("sharpness", [1.0, 25.0, 1000.0])
@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_so_do_its_relatives(scores: Callable[[int, int, int], Tensor], k: int, sharpness: float, alpha: float) -> None:
    j, prior = scores(600, k, 1).float(), dirichlet(k, alpha, 1)
    plan = solve(j, prior, sharpness)
    assert plan.converged
    assert column_error(j, plan.duals, sharpness, prior) < 1e-4  # float32 resolves 0.001 of exponents of 10,000
    assert (plan.rows(j).double().mean(0) - prior).abs().sum() < 3e-6


def test_its_labels_are_plain_sinkhorn_s() -> None:
    j, prior = soft(300, 10, 0), dirichlet(10, 0.5, 3)
    plan = solve(j, prior, 25.0)
    plain = sinkhorn(j, prior, 25.0, 4000)
    assert column_error(j, plain, 25.0, prior) < 1e-8
    assert (plan.labels(j) == (25 * j + plain).argmax(1)).all()


def test_it_is_pot_s_plan_under_a_skewed_prior() -> None:
    j, prior = sharp(200, 6, 0), dirichlet(6, 0.5, 0)
    theirs = ot.bregman.sinkhorn_log(np.full(200, 1 / 200), prior.numpy(), -j.numpy(), 0.2, 50_000, stopThr=1e-12)
    assert (solve(j, prior, 5.0).rows(j) - 200 * torch.from_numpy(theirs)).abs().max() < 1e-6


@pytest.mark.parametrize("scores", [soft, sharp])
def test_no_step_lowers_the_objective(scores: Callable[[int, int, int], Tensor]) -> None:
    """Newton steps whose error is smaller and whose objective is lower used to be kept, and led away."""
    for seed in range(4):
        j, prior = scores(999, 43, seed), dirichlet(43, 0.5, seed)
        start = 200 * torch.randn(43, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ascent = _DualAscent(partial(measure, j, sharpness=100.0), prior, start)
        values = []
        for _ in range(60):
            g = ascent.point.duals
            values.append(float(prior @ g - (100 * j + g).logsumexp(1).mean()))
            ascent.step()
        assert min(np.diff(values)) > -1e-9
        assert values[-1] > values[0] + 1


def test_what_is_left_to_sinkhorn_still_converges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any Newton step that is kept, the sweeps alone get there."""
    monkeypatch.setattr(_DualAscent, "_direction", lambda self: torch.full_like(self.prior, math.nan))
    j, prior = soft(300, 10, 0), dirichlet(10, 0.5, 3)
    plan = balance(partial(measure, j, sharpness=5.0), prior, 5.0, None, 1e-6, 3000)
    assert (plan.newton, plan.converged) == (0, True)
    assert column_error(j, plan.duals, 5.0, prior) < 2e-6


def test_a_bad_start_does_not_count() -> None:
    j, prior = sharp(500, 20, 0), dirichlet(20, 0.5, 0)
    start = 1e4 * torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far, near = solve(j, prior, 25.0, start), solve(j, prior, 25.0)
    assert far.converged
    assert (far.labels(j) == near.labels(j)).all()


def test_a_plan_that_was_cut_short_says_so() -> None:
    j, prior = sharp(999, 43, 1), dirichlet(43, 0.5, 1)
    plan = solve(j, prior, 100.0, limit=10)
    assert not plan.converged
    assert plan.passes == 10
    assert plan.error == pytest.approx(column_error(j, plan.duals, 100.0, prior), rel=1e-6)


def test_a_class_that_no_sample_can_be_of_is_refused() -> None:
    j, prior = soft(50, 5, 0), dirichlet(5, 2.0, 0)
    j[:, 3] = -math.inf
    with pytest.raises(InputError, match="no sample can be of class 3"):
        solve(j, prior, 25.0)
    j[0, 3] = -4.0
    assert solve(j, torch.tensor([0.3, 0.3, 0.2, 0.01, 0.19]).double(), 25.0).converged


def test_shares_too_small_for_a_float_are_told_by_their_logarithm() -> None:
    j = torch.zeros(40, 3, dtype=torch.float64)
    j[:, 2] = -1000.0  # 25,000 at lambda = 25: exp of it is 0 in float64
    first, second = (measure(part, torch.zeros(3, dtype=torch.float64), 25.0) for part in j.split(15)[:2])
    whole: Statistics = first + second
    assert whole.logs.tolist() == pytest.approx([math.log(15), math.log(15), math.log(15) - 25_000], rel=1e-12)


def test_an_e_step_reports_and_refuses_a_plan_that_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, y, *_ = drawn(1.0, 0)
    em = Em(Heads(K, D, "F", 10, 10, 0.02), FrozenFeatures(x), y, SHORT, 0)
    em.start()
    em.e_step()
    assert em.column_error < 1e-5
    assert not caplog.records
    monkeypatch.setattr(em_module, "WRONG", 3.0)
    em.duals = 3 * torch.randn(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(em_module, "solve", partial(solve, limit=1))
    em.e_step()
    assert em.column_error > 0.01
    assert "columns are off by" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(em_module, "solve", partial(solve, limit=1))
    em.duals = 3 * torch.randn(K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(DivergedError, match="after 1 passes its columns are off by"):
        em.e_step()


def test_a_prior_that_underflows_leaves_a_plan() -> None:
    x, y, *_ = drawn(1.0, 0)
    em = Em(Heads(K, D, "F", 10, 10, 1.0), FrozenFeatures(x), y, SHORT, 0)
    em.start()
    em.heads.preference.data[0] = -1e4
    assert float(em.prior()[0]) > 0
    assert em.e_step().converged
