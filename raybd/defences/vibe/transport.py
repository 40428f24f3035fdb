"""The E-step: entropy-regularised optimal transport between samples and classes, solved in K numbers.

The plan Q of largest <Q, J> + H(Q) / lambda with rows of 1/N and columns of `prior` is Q_ij = softmax_j(lambda J_ij +
g_j) / N, and its duals g are where the concave semi-dual

    F(g) = prior . g - mean_i LSE_j(lambda J_ij + g_j)        gradient: prior - columns
                                                              Hessian: -(diag(columns) - N Q'Q)

is largest. Damped Newton steps on F take 5 to 10 passes over J where Sinkhorn takes thousands; where one does not
rise, a Sinkhorn sweep does, for it is ascent along all of g (Cuturi and Peyre, arXiv:1503.02533, on the semi-dual).
Only g, the column sums and a K x K matrix outlive a chunk, so J may be larger than the memory and lie on several
workers, whose `Statistics` add up.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from scipy.sparse import csr_array
from torch import Tensor

from raybd.errors import InputError

Scores = Tensor | Callable[[], Iterable[Tensor]]  # J (N, K), or what gives it in chunks (n, K), anew at every call
BLOCK = {"cpu": 2**18, "cuda": 2**24}  # numbers of J at a time: what stays in a core's cache, what fills a GPU
FLOOR = {torch.float32: -40.0, torch.float64: -300.0}  # of exponents: squares stay normal numbers, and no column is 0
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
FEW = 64  # classes up to which the Hessian costs less than the rest of a pass, so that nothing need be left out
SOFT, SHARE, DENSE = 1e-4, 1e-5, 0.1  # rows this near to one class, shares this small, bend F too little to count
CURVED = 16  # rows a class that tell the Hessian well enough where every share counts
DAMPING = (1e-10, 1e10)
LOST = 1e-12
RESOLVED = 1e-14  # of F
PATIENCE = 20  # passes without a smaller error, after which what is left is taken for rounding


@dataclass(frozen=True)
class Statistics:
    """What one pass over some rows says of g; those of different rows add up."""

    count: int
    normaliser: Tensor  # () float64, sum of LSE_j(lambda J_ij + g_j)
    columns: Tensor  # (K,) float64, sums of the rows' softmax
    curvature: Tensor  # (K, K) float64, sum of diag(q) - q q' over the rows' softmax q, about

    def __add__(self, other: "Statistics") -> "Statistics":
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Statistics(*(a + b for a, b in pairs))


@dataclass(frozen=True)
class Transport:
    """A solved E-step. `rows` and `labels` read the plan off J, a chunk at a time."""

    duals: Tensor  # (K,) float64, of mean 0 under the prior
    sharpness: float
    error: float  # sum of |column - prior|
    newton: int  # steps of either kind that were kept
    sweeps: int
    passes: int  # over J, steps that were not kept included

    def rows(self, scores: Tensor) -> Tensor:
        """N Q (n, K) of the rows `scores` (n, K): each sums to 1."""
        return _exponents(scores, self.duals, self.sharpness).softmax(1)

    def labels(self, scores: Scores) -> Tensor:
        """The class of the largest share (N,) int64 of every row."""
        parts = [_exponents(block, self.duals, self.sharpness).argmax(1) for block in _blocks(scores)]
        return torch.cat(parts)


def solve(
    scores: Scores,
    prior: Tensor,
    sharpness: float,
    start: Tensor | None = None,
    tolerance: float | None = None,
    limit: int = 1000,
) -> Transport:
    """The plan of `scores` J (N, K) in nats with columns `prior` (K,) at lambda = `sharpness`, from duals `start`.

    float64 scores are handled in float64, all others in float32; sums, duals and steps are in float64 always.

    Raises:
        InputError: see `check`; also where J is not finite.
    """
    check(prior, sharpness)
    count, precise = _describe(scores)
    if not count:
        raise InputError("a plan needs one sample or more, the scores have none")
    stride = max(1, count // (CURVED * len(prior)))
    wanted = TOLERANCE[torch.float64 if precise else torch.float32] if tolerance is None else tolerance
    return balance(lambda duals: measure(scores, duals, sharpness, stride), prior, sharpness, start, wanted, limit)


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


def balance(
    look: Callable[[Tensor], Statistics],
    prior: Tensor,
    sharpness: float,
    start: Tensor | None,
    tolerance: float,
    limit: int = 1000,
) -> Transport:
    """Duals whose column error is at most `tolerance`, or the best found in `limit` passes, from what `look` tells.

    `look(duals)` is one pass over all of J, on as many workers as hold it.
    """
    prior = (prior.double() / prior.double().sum()).cpu()
    ascent = _DualAscent(look, prior, torch.zeros_like(prior) if start is None else start.double().cpu())
    best = ascent.point
    since = 0
    while best.error > tolerance and ascent.passes < limit and since < PATIENCE:
        before = ascent.passes
        ascent.step()
        better = ascent.point.lost or ascent.point.error < best.error
        best, since = (ascent.point, 0) if better else (best, since + ascent.passes - before)
    duals = best.duals - prior @ best.duals
    return Transport(duals, sharpness, best.error, ascent.newton, ascent.sweeps, ascent.passes)


@dataclass(frozen=True)
class _Point:
    """Where an ascent stands."""

    duals: Tensor  # (K,)
    value: Tensor  # () F
    columns: Tensor  # (K,) of the plan, none of them 0
    gap: Tensor  # (K,) the gradient of F
    curvature: Tensor  # (K, K)

    @property
    def error(self) -> float:
        return float(self.gap.abs().sum())

    @property
    def lost(self) -> bool:
        """Whether a column is so small that F says nothing of its dual but that it must rise."""
        return bool(self.columns.min() < LOST)


class _DualAscent:
    """The state of one ascent of F."""

    def __init__(self, look: Callable[[Tensor], Statistics], prior: Tensor, duals: Tensor) -> None:
        self.look, self.prior = look, prior
        self.newton = self.sweeps = self.passes = 0
        self.damping = 1.0
        self.point = self._at(duals)

    def step(self) -> None:
        """A Newton step where it rises; else, and where a class is dominated everywhere, a Sinkhorn sweep."""
        if self.point.lost:
            self._sweep()
            return
        trial = self._at(self.point.duals + self._direction())
        if self._rises(trial):
            self.point, self.newton, self.damping = trial, self.newton + 1, max(self.damping / 10, DAMPING[0])
            return
        self.damping = min(self.damping * 100, DAMPING[1])
        self._sweep()

    def _sweep(self) -> None:
        self.point = self._at(self.point.duals + self.prior.log() - self.point.columns.log())
        self.sweeps += 1

    def _at(self, duals: Tensor) -> _Point:
        seen = self.look(duals)
        self.passes += 1
        normaliser, columns, curvature = (
            part.cpu() / seen.count for part in (seen.normaliser, seen.columns, seen.curvature)
        )
        if not bool(normaliser.isfinite()):
            raise InputError("the scores of a plan must be finite, or -inf where a class cannot be; some rows are not")
        return _Point(duals, self.prior @ duals - normaliser, columns, self.prior - columns, curvature)

    def _direction(self) -> Tensor:
        """(K,) of (curvature + damping |gap| diag(prior)) d = gap: superlinear, and bounded where F is flat."""
        point = self.point
        # F does not change along the ones: one more direction of curvature there makes the system definite.
        slack = self.damping * min(point.error, 1.0) * self.prior
        system = point.curvature + slack.diag() + self.prior.mean() ** 2
        root = torch.linalg.cholesky_ex(system).L
        direction: Tensor = torch.cholesky_solve(point.gap[:, None], root)[:, 0]
        return direction

    def _rises(self, trial: _Point) -> bool:
        """Whether F rises by a share of what its slope promises, or, where that is rounding, the gap shrinks."""
        promised = float(self.point.gap @ (trial.duals - self.point.duals))
        if not math.isfinite(promised):
            return False
        return (
            float(trial.value - self.point.value) > 1e-4 * promised > RESOLVED or trial.error < 0.9 * self.point.error
        )


def measure(scores: Scores, duals: Tensor, sharpness: float, stride: int = 1) -> Statistics:
    """The `Statistics` of all rows of `scores` at `duals` (K,); of more than 64 classes, the curvature is a sample.

    Rows that lie with one class bend F as good as nowhere. Of the others, every share above 1e-5 counts where few are
    so large; else every `stride`-th row stands for those between.
    """
    return reduce(add, (_measure(block, duals, sharpness, stride) for block in _blocks(scores)))


def _measure(block: Tensor, duals: Tensor, sharpness: float, stride: int) -> Statistics:
    z = _exponents(block, duals, sharpness)
    top = z.amax(1, keepdim=True)
    z = z.sub_(top).clamp_(min=FLOOR[z.dtype]).exp_()
    total = z.sum(1, keepdim=True)
    z /= total
    normaliser = (top.double() + total.double().log()).sum()
    curvature = _laplacian(z) if z.shape[1] <= FEW else _sampled(z[total[:, 0] > 1 + SOFT], stride)
    return Statistics(len(z), normaliser, z.sum(0).double(), curvature.double())


def _laplacian(q: Tensor) -> Tensor:
    """Sum of t diag(q) - q q' (K, K) over the rows of `q` (n, K), t being their sums: 1 but for rounding."""
    return torch.diag(q.sum(1) @ q) - q.T @ q


def _sampled(soft: Tensor, stride: int) -> Tensor:
    """`_laplacian` of `soft` (n, K), about: from its larger shares where they are few, else from some of its rows."""
    large = soft > SHARE
    counts = large.sum(1)
    if soft.device.type != "cpu" or int(counts.sum()) > DENSE * soft.numel():
        return _laplacian(soft[::stride]) * stride
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    where = large.nonzero()[:, 1]
    shares = csr_array((soft[large].numpy(), where.numpy(), starts.numpy()), shape=(len(soft), soft.shape[1]))
    products = torch.from_numpy((shares.T @ shares).toarray())
    return products.sum(1).diag() - products


def _exponents(scores: Tensor, duals: Tensor, sharpness: float) -> Tensor:
    """lambda J + g (n, K), float64 for float64 scores and else float32."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.to(dtype).mul(sharpness).add_(duals.to(scores.device, dtype))


def _blocks(scores: Scores) -> Iterator[Tensor]:
    for chunk in [scores] if isinstance(scores, Tensor) else scores():
        numbers = BLOCK.get(chunk.device.type, BLOCK["cuda"])
        yield from chunk.split(max(numbers // chunk.shape[1], 2 * chunk.shape[1]))


def _describe(scores: Scores) -> tuple[int, bool]:
    """How many rows there are, and whether all are float64."""
    seen = [(len(part), part.dtype == torch.float64) for part in ([scores] if isinstance(scores, Tensor) else scores())]
    return sum(rows for rows, _ in seen), all(precise for _, precise in seen)
