"""One pass over the scores of an E-step: what the semi-dual of its transport is at given duals, and how it bends."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from scipy.sparse import csr_array
from torch import Tensor

Scores = Tensor | Callable[[], Iterable[Tensor]]  # J (N, K), or what gives it in chunks (n, K), anew at every call
BLOCK = {"cpu": 2**18, "cuda": 2**24}  # numbers of J at a time: what stays in a core's cache, what fills a GPU
FLOOR = {torch.float32: -40.0, torch.float64: -300.0}  # of exponents: squares stay normal numbers, and no column is 0
FAINT = 1e-12  # sums of shares below which the floor counts, so that their logarithm is taken anew
FEW = 64  # classes up to which the Hessian costs less than the rest of a pass, so that nothing need be left out
SOFT, SHARE, DENSE = 1e-4, 1e-5, 0.1  # rows this near to one class, shares this small, bend F too little to count
ROUNDING = 1e-6  # of sums of shares in float32
CURVED = 16  # rows a class that tell the Hessian well enough where every share counts


@dataclass(frozen=True)
class Statistics:
    """What one pass over some rows says of g; those of different rows add up."""

    count: int
    normaliser: Tensor  # () float64, sum of LSE_j(lambda J_ij + g_j)
    columns: Tensor  # (K,) float64, sums of the rows' softmax
    logs: Tensor  # (K,) float64, ln of the same, which tells how small a column is where the sum underflows
    curvature: Tensor  # (K, K) float64, sum of diag(q) - q q' over the rows' softmax q, about: see `hessian`

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.count + other.count,
            self.normaliser + other.normaliser,
            self.columns + other.columns,
            torch.logaddexp(self.logs, other.logs),
            self.curvature + other.curvature,
        )

    def hessian(self) -> Tensor:
        """diag(columns) - N Q'Q (K, K) float64 on the CPU, about; positive semidefinite, whatever was left out.

        Its diagonal is the sum of what lies beside it, since of hard rows' own nothing would be left after rounding;
        but that of `curvature` where rows were left out and it is larger.
        """
        beside = (self.curvature / self.count).cpu()
        spread = beside.diagonal().clone()
        beside.fill_diagonal_(0)
        return beside + torch.maximum(spread, -beside.sum(1)).diag()


def measure(
    scores: Scores, duals: Tensor, sharpness: float, stride: int | None = None, double: bool = False
) -> Statistics:
    """The `Statistics` of all rows of `scores` at `duals` (K,); of more than 64 classes, the curvature is a sample.

    Rows that lie with one class bend F as good as nowhere. Of the others, every share above 1e-5 counts where few are
    so large; else every `stride`-th row stands for those between. `double`: in float64, whatever the scores are in.
    """
    return reduce(add, (_measure(block, duals, sharpness, stride or 1, double) for block in blocks(scores)))


def exponents(scores: Tensor, duals: Tensor, sharpness: float, double: bool = False) -> Tensor:
    """lambda J + g (n, K), float64 for float64 scores or where `double`, and else float32."""
    dtype = torch.float64 if double or scores.dtype == torch.float64 else torch.float32
    return scores.to(dtype).mul(sharpness).add_(duals.to(scores.device, dtype))


def blocks(scores: Scores) -> Iterator[Tensor]:
    """The rows of `scores` in parts that a core's cache or a GPU holds."""
    for chunk in [scores] if isinstance(scores, Tensor) else scores():
        numbers = BLOCK.get(chunk.device.type, BLOCK["cuda"])
        yield from chunk.split(max(numbers // chunk.shape[1], 2 * chunk.shape[1]))


def describe(scores: Scores) -> tuple[int, bool]:
    """How many rows there are, and whether all are float64."""
    seen = [(len(part), part.dtype == torch.float64) for part in ([scores] if isinstance(scores, Tensor) else scores())]
    return sum(rows for rows, _ in seen), all(precise for _, precise in seen)


def _measure(block: Tensor, duals: Tensor, sharpness: float, stride: int, double: bool) -> Statistics:
    z = exponents(block, duals, sharpness, double)
    top = z.amax(1, keepdim=True)
    z = z.sub_(top).clamp_(min=FLOOR[z.dtype]).exp_()
    total = z.sum(1, keepdim=True)
    z /= total
    rows = top.double() + total.double().log()
    columns = z.sum(0).double()
    logs = columns.log()
    if bool((faint := columns < FAINT).any()):
        logs[faint] = (exponents(block[:, faint], duals[faint.to(duals.device)], sharpness, True) - rows).logsumexp(0)
    curvature = _all(z) if z.shape[1] <= FEW else _sampled(z, total[:, 0] > 1 + SOFT, stride)
    return Statistics(len(z), rows.sum(), columns, logs, curvature.double())


def _sampled(q: Tensor, soft: Tensor, stride: int) -> Tensor:
    """Minus the products q'q (K, K) of `q` (n, K), about: of the rows that are `soft` (n,); its diagonal is exact."""
    products = -_of_some(q[soft], stride)
    spread = q.sum(0) * (1 - ROUNDING) - torch.linalg.vector_norm(q, dim=0).square()
    return products.diagonal_scatter(spread)


def _of_some(soft: Tensor, stride: int) -> Tensor:
    """The products q'q (K, K) of `soft` (n, K), about: of its larger shares where they are few, else of some rows."""
    large = soft > SHARE
    counts = large.sum(1)
    if soft.device.type != "cpu" or int(counts.sum()) > DENSE * soft.numel():
        some = soft[::stride]
        return some.T @ some * stride
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    where = large.nonzero()[:, 1]
    shares = csr_array((soft[large].numpy(), where.numpy(), starts.numpy()), shape=(len(soft), soft.shape[1]))
    return torch.from_numpy((shares.T @ shares).toarray())


def _all(q: Tensor) -> Tensor:
    """Minus the products q'q (K, K), with a diagonal of 0."""
    return -(q.T @ q).fill_diagonal_(0)
