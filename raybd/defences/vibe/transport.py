"""The E-step: entropy-regularised optimal transport between samples and classes, solved in K numbers.

The plan Q of largest <Q, J> + H(Q) / lambda with rows of 1/N and columns of `prior` is Q_ij = softmax_j(lambda J_ij +
g_j) / N, and its duals g are where the concave semi-dual

    F(g) = prior . g - mean_i LSE_j(lambda J_ij + g_j)        gradient: prior - columns
                                                              Hessian: -(diag(columns) - N Q'Q)

is largest. `ascent` climbs it in 5 to 100 passes over J where Sinkhorn takes thousands. A plan not found soon is
approached from blunter ones, whose duals, scaled, are near: lambda rises by factors of 4. Only g, the column sums and a
K x K matrix outlive a chunk, so J may be larger than the memory and lie on several workers, whose `Statistics` add up.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from raybd.defences.vibe.ascent import Transport, balance
from raybd.defences.vibe.semidual import CURVED, Scores, Statistics, describe, measure
from raybd.errors import InputError

__all__ = ["Scores", "Statistics", "Transport", "balance", "check", "measure", "solve"]

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
SOON = 60  # passes
FACTOR, BLUNT, LOOSE = 4.0, 1.0, 0.3  # of lambda; the smallest that is tried; how near such a plan's columns must be


def solve(
    scores: Scores,
    prior: Tensor,
    sharpness: float,
    start: Tensor | None = None,
    tolerance: float | None = None,
    limit: int = 1000,
) -> Transport:
    """The plan of `scores` J (N, K) in nats with columns `prior` (K,) at lambda = `sharpness`, from duals `start`.

    float64 scores are handled in float64. All others are in float32, and in float64 where that does not resolve the
    columns to `tolerance`; sums, duals and steps are in float64 always. In `limit` passes it ends, whether it
    `converged` or not.

    Raises:
        InputError: see `check`; also where J is not finite.
    """
    check(prior, sharpness)
    count, precise = describe(scores)
    if not count:
        raise InputError("a plan needs one sample or more, the scores have none")
    stride = max(1, count // (CURVED * len(prior)))
    wanted = TOLERANCE[torch.float64 if precise else torch.float32] if tolerance is None else tolerance

    def at(sharpness: float, double: bool = False) -> Callable[[Tensor], Statistics]:
        return lambda duals: measure(scores, duals, sharpness, stride, double)

    plan = balance(at(sharpness), prior, sharpness, start, wanted, min(SOON, limit))
    if not plan.converged and plan.passes < limit:
        plan = _approach(at, prior, sharpness, wanted, limit, plan)
    if not (plan.converged or precise) and plan.passes < limit:
        found = balance(at(sharpness, True), prior, sharpness, plan.duals, wanted, limit - plan.passes)
        plan = replace(_after(plan, found), double=True)
    return plan


def check(prior: Tensor, sharpness: float) -> None:
    """Refuse a prior or a sharpness that no plan has.

    Raises:
        InputError: fewer than two classes, a prior that is no distribution or has a 0, or lambda not in (0, inf).
    """
    problems = []
    if prior.ndim != 1 or len(prior) < 2:
        problems.append(f"a plan needs 2 classes or more, the prior has shape {tuple(prior.shape)}")
    elif not (bool((prior > 0).all()) and abs(float(prior.double().sum()) - 1) < 1e-4):
        problems.append(f"the prior must be positive and sum to 1, got {prior.tolist()}")
    if not 0 < sharpness < math.inf:
        problems.append(f"lambda must be above 0 and finite, got {sharpness:g}")
    if problems:
        raise InputError(problems)


def _approach(
    at: Callable[[float], Callable[[Tensor], Statistics]],
    prior: Tensor,
    sharpness: float,
    tolerance: float,
    limit: int,
    tried: Transport,
) -> Transport:
    """The plan by way of blunter ones; `tried` where that is nearer."""
    blunter = max(0, math.ceil(math.log(sharpness / BLUNT, FACTOR)))
    plan, start = tried, None
    for step in range(blunter, -1, -1):
        own = sharpness / FACTOR**step
        loose = LOOSE if step else 0.0
        found = balance(at(own), prior, own, start, tolerance, max(1, limit - plan.passes), loose)
        plan, start = _after(plan, found), found.duals * FACTOR
    return plan if plan.error < tried.error else replace(tried, passes=plan.passes)


def _after(plan: Transport, found: Transport) -> Transport:
    """`found` with the steps and passes of `plan` before it added."""
    counts = {name: getattr(plan, name) + getattr(found, name) for name in ("newton", "sweeps", "passes")}
    return replace(found, **counts)
