"""The information-bottleneck paper's estimator of I(X;T) and I(T;Y_pred): InfoNCE with K sampled negatives, in-sample.

Of a batch of B pairs, with j_ik uniform on the batch, with replacement, i itself allowed:

    I = mean_i f(u_i, v_i) - mean_i log(exp f(u_i, v_i) + sum_k exp f(u_i, v_{j_ik})) + log(K + 1)

It is kept to compare with their figures. Negatives that are copies of the positive put its ceiling below both
log(K + 1) and log B, and its values are those of the training batches, of the last five epochs (arXiv:2511.21923 and
the release that came with its review; in-sample, but with new noise at every step). Full precision, not mixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raybd.metrics.information.bounds import MIEstimate
from raybd.seeds import forked_rng, stream

HIDDEN = 128
AVERAGED = 5  # last epochs that make up the value
Sample = Callable[[Tensor], tuple[Tensor, Tensor]]  # indices (B,) -> u (B, U) and v (B, V), with new noise


@dataclass(frozen=True, kw_only=True)
class SampledInfoNCE:
    """Settings of the estimator, which differ between the two quantities."""

    batch: int
    negatives: int
    epochs: int
    learning_rate: float

    @property
    def ceiling(self) -> float:
        """The largest possible value: log(K + 1) - E log(1 + n), n ~ Bin(K, 1/B) being the copies of the positive."""
        from scipy.stats import binom

        copies = np.arange(self.negatives + 1)
        expected = binom.pmf(copies, self.negatives, 1 / self.batch) @ np.log1p(copies)
        return math.log(self.negatives + 1) - float(expected)

    def batches(self, n: int) -> int:
        """Batches of an epoch on `n` pairs: numbers 0 to half of them, rounded down, of a fresh order."""
        return math.ceil(n / self.batch) // 2 + 1


XT = SampledInfoNCE(batch=128, negatives=512, epochs=350, learning_rate=3e-4)
TY = SampledInfoNCE(batch=512, negatives=256, epochs=250, learning_rate=5e-4)


class Critic(nn.Module):
    """The critic network [u; v] -> 128 -> 128 -> 1 with ReLU, its first layer factored."""

    def __init__(self, u: int, v: int) -> None:
        super().__init__()
        self.u = u
        self.first, self.second = nn.Linear(u + v, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, 1)

    def forward(self, u: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """f(u_i, v_j) for the j of `index` (B, K): (B, K)."""
        in_u, in_v = self.first.weight.split([self.u, self.first.in_features - self.u], 1)
        projected = (v @ in_v.T)[index]
        hidden = (projected + nn.functional.linear(u, in_u, self.first.bias)[:, None]).relu()
        scores: Tensor = self.last(self.second(hidden).relu()).squeeze(-1)
        return scores


def sampled_infonce_bound(
    critic: Callable[[Tensor, Tensor, Tensor], Tensor], u: Tensor, v: Tensor, negatives: Tensor
) -> Tensor:
    """The estimate above, () nats, with the pairs of `negatives` (B, K)."""
    scores = critic(u, v, torch.cat([torch.arange(len(u), device=u.device)[:, None], negatives], 1))
    return (scores[:, 0] - scores.logsumexp(1)).mean() + math.log(scores.shape[1])


def sampled_infonce_estimate(
    sample: Sample, n: int, settings: SampledInfoNCE, seed: int, epochs: int | None = None
) -> MIEstimate:
    """The authors' estimate, of `n` images whose pairs `sample` draws; `epochs` cuts the training short."""
    u, v = sample(torch.zeros(1, dtype=torch.int64))
    with forked_rng(seed, "paper critic", device=u.device):
        critic = Critic(u.shape[1], v.shape[1]).to(u.device)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=8)
    means = []
    for epoch in range(epochs or settings.epochs):
        means.append(_one_epoch(critic, optimizer, sample, n, settings, stream(seed, "paper batches", epoch)))
        rates.step(-means[-1])
    value = float(np.mean(means[-AVERAGED:]))
    return MIEstimate(
        value=value,
        lower=value,
        upper=math.inf,
        error=float(np.std(means[-AVERAGED:], ddof=1)),
        samples=n,
        ceiling=settings.ceiling,
        fresh=False,
    )


def _one_epoch(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    sample: Sample,
    n: int,
    settings: SampledInfoNCE,
    rng: torch.Generator,
) -> float:
    order = torch.randperm(n, generator=rng).split(settings.batch)[: settings.batches(n)]
    total = torch.zeros(())
    for index in order:
        u, v = sample(index)
        negatives = torch.randint(len(index), (len(index), settings.negatives), generator=rng).to(u.device)
        estimate = training_step(critic, optimizer, u, v, negatives)
        total = total.to(u.device) + estimate
    return float(total) / len(order)


def training_step(critic: Critic, optimizer: torch.optim.Optimizer, u: Tensor, v: Tensor, negatives: Tensor) -> Tensor:
    """One gradient step of `critic` up the estimate; returns the estimate before it."""
    estimate = sampled_infonce_bound(critic, u, v, negatives)
    optimizer.zero_grad(set_to_none=True)
    (-estimate).backward()
    nn.utils.clip_grad_norm_(critic.parameters(), 5.0)
    optimizer.step()
    return estimate.detach()
