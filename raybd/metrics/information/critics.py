"""Concatenation critics f(u, v) = w3 relu(W2 relu(W1 [u; v] + b1) + b2), one a group, all in the same tensors.

The first layer is factored, W1 [u; v] = W_u u + W_v v: B + B projections instead of B * B, and no tensor of B * B
concatenated vectors. There is no last bias: it cancels in InfoNCE. A group's critic is the same whether it is trained
alone or beside others: its weights and its batches come from streams of its own, and the groups share no operation
but the batched ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate, infonce, standard_error
from raybd.seeds import stream

HIDDEN = 128
CHUNK = 2**22  # hidden numbers held at a time where all pairs of a group are scored


@dataclass(frozen=True)
class Pairs:
    """Draws of pairs (U, V) for G groups of N: `u` (G, N, R, U) and `v` (G, N, R, V).

    Draw r of u belongs to draw r of v; a v without noise is (G, N, 1, V).
    """

    u: Tensor
    v: Tensor

    def batch(self, index: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs `index` (G, B), each in its own `draw` (G, B): (G, B, U) and (G, B, V)."""
        group = torch.arange(len(self.u), device=self.u.device)[:, None]
        return self.u[group, index, draw], self.v[group, index, draw % self.v.shape[2]]


@dataclass(frozen=True, kw_only=True)
class CriticTraining:
    """Settings of the critics' training: AdamW on InfoNCE over all pairs of a batch.

    Small batches are worth their steps: of the 16 pairs of a step a critic learns no less than of 64, in a tenth of
    the time, and it is judged over all N whatever it learnt from.
    """

    steps: int = 600
    batch: int = 16
    learning_rate: float = 3e-3  # the peak of one cycle
    weight_decay: float = 1e-4


class Critics:
    """One critic network for each of the groups `names`, and the scales of their inputs."""

    def __init__(self, pairs: Pairs, names: Sequence[str], seed: int) -> None:
        self.names, self.seed = tuple(names), seed
        sizes = pairs.u.shape[-1], pairs.v.shape[-1]
        drawn = [_weights(*sizes, stream(seed, "critic", name)) for name in self.names]
        self.parameters = [torch.stack(part).to(pairs.u.device).requires_grad_() for part in zip(*drawn, strict=True)]
        self.standardise(pairs)

    def standardise(self, pairs: Pairs) -> None:
        """Scale inputs as those of `pairs` to mean 0, deviation 1: trained critics, unlike information, have units."""
        self.scales = [_scale(part) for part in (pairs.u, pairs.v)]

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        """f of all pairs of `u` (G, A, U) and `v` (G, B, V): (G, A, B)."""
        (mean_u, std_u), (mean_v, std_v) = self.scales
        return all_pairs(self.parameters, (u - mean_u) / std_u, (v - mean_v) / std_v)


def all_pairs(parameters: Sequence[Tensor], u: Tensor, v: Tensor) -> Tensor:
    """The factored critics on all pairs of `u` (G, A, U) and `v` (G, B, V): (G, A, B)."""
    in_u, in_v, b1, w2, b2, w3 = parameters
    first = torch.baddbmm(b1, u, in_u)[:, :, None] + (v @ in_v)[:, None]
    second = torch.baddbmm(b2, first.relu_().flatten(1, 2), w2).relu_()
    return (second @ w3).view(first.shape[:3])


def fit(critics: Critics, pairs: Pairs, training: CriticTraining) -> Tensor:
    """Train `critics` further, in place; returns the in-sample estimates of the last tenth of the steps, (S, G).

    Every step takes each image once, in a random draw: one cached draw an image would be memorised.
    """
    critics.standardise(pairs)
    optimizer = torch.optim.AdamW(
        critics.parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, training.steps, cycle_momentum=False)
    drawn = [_batches(pairs, training, stream(critics.seed, "batches", name)) for name in critics.names]
    index, draw = (torch.stack(part, 1).to(pairs.u.device) for part in zip(*drawn, strict=True))
    history = []
    for step in range(training.steps):
        estimates = infonce(critics(*pairs.batch(index[step], draw[step]))).mean(1)
        optimizer.zero_grad(set_to_none=True)
        (-estimates.sum()).backward()
        optimizer.step()
        rates.step()
        history.append(estimates.detach())
    return torch.stack(history[-max(1, training.steps // 10) :])


@torch.no_grad()
def evaluate(critics: Critics, pairs: Pairs, fresh: bool = True) -> list[MIEstimate]:
    """InfoNCE of each group over all its N pairs, at most log N; `fresh` says whether the critics never saw them."""
    groups, n, draws = pairs.u.shape[:3]
    rows = max(1, CHUNK // (groups * n * HIDDEN))
    summands = []
    for r in range(draws):
        u, v = pairs.u[:, :, r], pairs.v[:, :, r % pairs.v.shape[2]]
        summands.append(infonce(torch.cat([critics(part, v) for part in u.split(rows, 1)], 1)))
    return [_estimate(group, fresh) for group in torch.stack(summands).mean(0)]


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (G, 1, D) of `x` (G, N, R, D) over all draws; 1 where nothing varies."""
    flat = x.flatten(1, 2)
    std = flat.std(1, keepdim=True)
    return flat.mean(1, keepdim=True), torch.where(std > 0, std, 1)


def _weights(u: int, v: int, rng: torch.Generator) -> list[Tensor]:
    """Weights and biases as torch.nn.Linear draws them: uniform up to 1 / sqrt(inputs)."""
    shapes = [(u, HIDDEN), (v, HIDDEN), (1, HIDDEN), (HIDDEN, HIDDEN), (1, HIDDEN), (HIDDEN, 1)]
    inputs = [u + v] * 3 + [HIDDEN] * 3
    drawn = [torch.rand(shape, generator=rng) for shape in shapes]
    return [(2 * x - 1) / math.sqrt(n) for x, n in zip(drawn, inputs, strict=True)]


def _batches(pairs: Pairs, training: CriticTraining, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For every step, which images without repetition and which draw of each: twice (steps, B)."""
    n, draws = pairs.u.shape[1:3]
    index = torch.rand(training.steps, n, generator=rng).argsort(1)[:, : training.batch]
    return index, torch.randint(draws, index.shape, generator=rng)


def _estimate(summands: Tensor, fresh: bool) -> MIEstimate:
    ceiling = math.log(len(summands))
    return MIEstimate(
        value=float(summands.mean()),
        lower=float(summands.mean()),
        upper=math.inf,
        error=float(standard_error(summands)),
        samples=len(summands),
        ceiling=ceiling,
        fresh=fresh,
    )
