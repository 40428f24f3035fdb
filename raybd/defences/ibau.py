"""I-BAU: unlearn the worst perturbation that all images share, with the gradient that knows how it would answer.

Zeng, Chen, Park, Mao, Jin and Jia, "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022
(arXiv:2110.03735), algorithm 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, batches
from raybd.types import Images
from raybd.utils.constraints import Positive

Loss = Callable[[Tensor], Tensor]  # of the perturbation; the weights it holds itself


@dataclass(frozen=True, kw_only=True)
class Ibau(CleanRepair):
    """min_w max_{||d||_2 <= C} H(d, w), H the cross-entropy of the clean images x + d.

    A step on w follows dH/dw + (dd/dw)^T dH/dd, its second part by the fixed point of an ascent step on d.
    """

    rounds: Annotated[int, Ge(1)] = 100  # a batch each
    ascents: Annotated[int, Ge(1)] = 5  # steps on d in a round; d begins at 0
    radius: Positive = 0.18  # C over sqrt(C H W): 10 for an image of 3x32x32, as published
    fixed_points: Annotated[int, Ge(1)] = 5  # K
    fixed_rate: Positive = 0.1  # the ascent step whose fixed point is meant
    learning_rate: Positive = 1e-3  # of Adam

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """A new perturbation, then a step on the weights, again and again; batch norm as it is deployed."""
        model.eval()
        weights = list(model.parameters())
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        bound = self.radius * math.sqrt(math.prod(clean.shape))
        for x, y in batches(clean, context, self.rounds, "ibau"):

            def loss(d: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                return F.cross_entropy(model(x + d), y)

            d = worst(loss, torch.zeros_like(x[:1]), bound, self.ascents)
            gradients = hypergradient(loss, loss, d, weights, self.fixed_points, self.fixed_rate)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        return {}


def worst(loss: Loss, start: Tensor, bound: float, steps: int) -> Tensor:
    """Ascent from `start` (1, C, H, W) by steps of 2 bound / steps along the normed gradient, in ||d||_2 <= bound."""
    d = start
    for _ in range(steps):
        free = d.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(free), free)
        d = free.detach() + 2 * bound / steps * gradient / gradient.norm().clamp_min(1e-12)
        d = d * (bound / d.norm().clamp_min(1e-12)).clamp_max(1)
    return d


def hypergradient(
    inner: Loss, outer: Loss, d: Tensor, weights: Sequence[Tensor], steps: int, rate: float
) -> list[Tensor]:
    """d outer(d(w), w) / dw, where d(w) is the fixed point of Phi(d, w) = d + rate * d inner / dd.

    The adjoint v <- (dPhi/dd)^T v + d outer / dd is iterated `steps` times from 0, and the answer is
    d outer / dw + (dPhi/dw)^T v. Exact in the limit where Phi contracts: `inner` concave in d, and rate * curvature
    below 2.
    """
    free = d.detach().requires_grad_()
    direct = torch.autograd.grad(outer(free), [free, *weights])
    (slope,) = torch.autograd.grad(inner(free), free, create_graph=True)
    ascent = free + rate * slope
    v = torch.zeros_like(free)
    for _ in range(steps):
        (pulled,) = torch.autograd.grad(ascent, free, v, retain_graph=True)
        v = pulled + direct[0]
    indirect = torch.autograd.grad(ascent, list(weights), v, allow_unused=True)
    parts = zip(direct[1:], indirect, strict=True)
    return [part if more is None else part + more for part, more in parts]
