"""The ascent of an E-step's semi-dual F: damped Newton steps on the logarithms of the columns, none of which lowers F.

With r = c ln(prior / c) for the plan's columns c, shifted to sum to 0, a step solves (H + m diag(c)) d = r, H being
-F's Hessian. Near the solution r is the gradient and the step Newton's. Where no row is near a second class H is 0, and
the step for m = 1 is a Sinkhorn sweep, which is ascent along all of g (Cuturi and Peyre, arXiv:1503.02533, on the
semi-dual): once m would have to exceed 1, the sweep is what remains, and it always rises.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.defences.vibe.semidual import Scores, Statistics, blocks, exponents
from raybd.errors import InputError

FIRST, LEAST = 1e-2, 1e-12  # of the damping m
UP, DOWN, SLOW, FAST = 10.0, 5.0, 3.0, 30.0  # by how much m changes
RESOLVED = 1e-14  # of F
PATIENCE = 60  # passes without a smaller error, after which what is left is taken for rounding
TINY = 1e-250  # of columns, so that they may be divided by


@dataclass(frozen=True)
class Transport:
    """A solved E-step. `rows` and `labels` read the plan off J, a chunk at a time."""

    duals: Tensor  # (K,) float64, of mean 0 under the prior
    sharpness: float
    error: float  # sum of |column - prior|
    newton: int  # steps of either kind that were kept
    sweeps: int
    passes: int  # over J, steps that were not kept included
    converged: bool = True  # whether `error` is within the tolerance that was asked
    double: bool = False  # whether float64 was needed to get there; the plan is then read in it too

    def rows(self, scores: Tensor) -> Tensor:
        """N Q (n, K) of the rows `scores` (n, K): each sums to 1."""
        return exponents(scores, self.duals, self.sharpness, self.double).softmax(1)

    def labels(self, scores: Scores) -> Tensor:
        """The class of the largest share (N,) int64 of every row."""
        parts = [exponents(part, self.duals, self.sharpness, self.double).argmax(1) for part in blocks(scores)]
        return torch.cat(parts)


def balance(
    look: Callable[[Tensor], Statistics],
    prior: Tensor,
    sharpness: float,
    start: Tensor | None,
    tolerance: float,
    limit: int = 1000,
    loose: float = 0.0,
) -> Transport:
    """Duals whose column error is at most `tolerance`, or the best found in `limit` passes, from what `look` tells.

    `look(duals)` is one pass over all of J, on as many workers as hold it. Where `loose` is not 0, it is enough that
    every column is within a factor exp(`loose`) of its prior.
    """
    prior = (prior.double() / prior.double().sum()).cpu()
    ascent = _DualAscent(look, prior, torch.zeros_like(prior) if start is None else start.double().cpu())
    best, since = ascent.point, 0
    while not (done := best.error <= tolerance or best.factor <= loose) and ascent.passes < limit and since < PATIENCE:
        before = ascent.passes
        ascent.step()
        better = ascent.point.error < best.error
        best, since = (ascent.point, 0) if better else (best, since + ascent.passes - before)
    duals = best.duals - prior @ best.duals
    return Transport(duals, sharpness, best.error, ascent.newton, ascent.sweeps, ascent.passes, done)


@dataclass(frozen=True)
class _Point:
    """Where an ascent stands."""

    duals: Tensor  # (K,)
    value: float  # F
    columns: Tensor  # (K,) of the plan, none of them 0
    logs: Tensor  # (K,) ln of the prior over the columns
    gap: Tensor  # (K,) the gradient of F
    curvature: Tensor  # (K, K)

    @property
    def error(self) -> float:
        return float(self.gap.abs().sum())

    @property
    def factor(self) -> float:
        """The logarithm of the largest factor between a column and its prior."""
        return float(self.logs.abs().max())


class _DualAscent:
    """The state of one ascent of F."""

    def __init__(self, look: Callable[[Tensor], Statistics], prior: Tensor, duals: Tensor) -> None:
        self.look, self.prior = look, prior
        self.newton = self.sweeps = self.passes = 0
        self.damping = FIRST
        self.point = self._at(duals)

    def step(self) -> None:
        """Try one step, and keep it where F rises; a Sinkhorn sweep, which always does, where no Newton step rose."""
        if self.damping > 1:
            self.point, self.sweeps, self.damping = self._at(self.point.duals + self.point.logs), self.sweeps + 1, 1.0
            return
        direction = self._direction()
        promised = float(self.point.gap @ direction)
        if not (math.isfinite(promised) and promised > 0):
            self._raise_damping()
            return
        trial = self._at(self.point.duals + direction)
        left = float(trial.gap @ direction)  # F is concave, so it rose by this much or more
        if left < 0 and not trial.value - self.point.value > 1e-4 * promised > RESOLVED:
            self._raise_damping()
            return
        self.point, self.newton = trial, self.newton + 1
        self._lower_damping(left / promised)

    def _raise_damping(self) -> None:
        self.damping = self.damping * UP if self.damping < 1 else math.inf

    def _lower_damping(self, left: float) -> None:
        """By more, the nearer to 0 the share of the slope that is `left`; not where the step went far beyond."""
        if left > -0.5:
            by = SLOW if left > 0.5 else FAST if abs(left) < 0.1 else DOWN
            self.damping = max(self.damping / by, LEAST)

    def _at(self, duals: Tensor) -> _Point:
        duals = duals - self.prior @ duals
        seen = self.look(duals)
        self.passes += 1
        normaliser, columns = (part.cpu() / seen.count for part in (seen.normaliser, seen.columns))
        if not bool(normaliser.isfinite()):
            raise InputError("the scores of a plan must be finite, or -inf where a class cannot be; some rows are not")
        logs = self.prior.log() - seen.logs.cpu() + math.log(seen.count)
        if nowhere := (logs == math.inf).nonzero()[:, 0].tolist():
            raise InputError(f"no sample can be of class {', '.join(map(str, nowhere))}, whose prior is above 0")
        return _Point(
            duals, float(self.prior @ duals - normaliser), columns, logs, self.prior - columns, seen.hessian()
        )

    def _direction(self) -> Tensor:
        """(K,) of (curvature + damping diag(columns)) d = columns ln(prior / columns), with the latter summing to 0.

        Both sides are scaled by the roots of the columns, so that small classes count like large ones.
        """
        point, root = self.point, self.point.columns.clamp_min(TINY).sqrt()
        logs = point.logs - root.square() @ point.logs / root.square().sum()
        system = point.curvature / root[:, None] / root + self.damping * torch.eye(len(root), dtype=root.dtype)
        factor = torch.linalg.cholesky_ex(system).L
        direction: Tensor = torch.cholesky_solve((root * logs)[:, None], factor)[:, 0] / root
        return direction
