"""ANP: neurons that an adversary's small changes turn into a backdoor are pruned.

Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021 (arXiv:2110.14430).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn
from torch.func import functional_call

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, batches, require_layers, statistics_kept
from raybd.types import Images
from raybd.utils.constraints import Positive, Share

Weights = list[Tensor]  # one (C,) for each batch norm


@dataclass(frozen=True, kw_only=True)
class Anp(CleanRepair):
    """min_m alpha L(m w, b) + (1 - alpha) max_{d, xi in [-eps, eps]} L((m + d) w, (1 + xi) b), m in [0, 1].

    Neurons are the channels of batch norms, w their scales and b their shifts, as in the paper's networks; what ends
    with m below the threshold is pruned: its scale becomes 0, its shift stays.
    """

    steps: Annotated[int, Ge(1)] = 500  # published: 2000
    learning_rate: Positive = 0.2  # of the masks
    epsilon: Positive = 0.4
    alpha: Share = 0.2
    threshold: Share = 0.2

    def network(self, model: nn.Module) -> nn.Module:
        """`model` as it is. Raises InputError where it has no batch norm with scales."""
        require_layers("anp", bool(norms(model)), "batch norms that have scales")
        return model

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Find the masks, with the statistics of each batch, then prune."""
        masks = [torch.ones_like(norm.weight, requires_grad=True) for norm in norms(model).values()]
        optimizer = torch.optim.SGD(masks, lr=self.learning_rate, momentum=0.9)
        model.train()
        with statistics_kept(model):
            for x, y in batches(clean, context, self.steps, "anp"):
                self._step(model, masks, optimizer, x, y)
        return {"defence/pruned": prune(model, masks, self.threshold)}

    def _step(self, model: nn.Module, masks: Weights, optimizer: torch.optim.SGD, x: Tensor, y: Tensor) -> None:
        scales, shifts = adversary(model, masks, x, y, self.epsilon)
        loss = objective(model, masks, scales, shifts, x, y, self.alpha)
        for mask, gradient in zip(masks, torch.autograd.grad(loss, masks), strict=True):
            mask.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for mask in masks:
                mask.clamp_(0, 1)


def norms(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The batch norms of `model` that have scales and shifts, by name."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    return {name: norm for name, norm in found.items() if norm.affine}


def masked_loss(model: nn.Module, masks: Weights, shifts: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy (nats) with every scale times its mask (C,) and every shift times 1 + xi (C,)."""
    changed: dict[str, Tensor] = {}
    for (name, norm), mask, xi in zip(norms(model).items(), masks, shifts, strict=True):
        changed[f"{name}.weight"] = norm.weight.detach() * mask
        changed[f"{name}.bias"] = norm.bias.detach() * (1 + xi)
    return F.cross_entropy(functional_call(model, changed, (x,)), y)


def objective(
    model: nn.Module, masks: Weights, scales: Weights, shifts: Weights, x: Tensor, y: Tensor, alpha: float
) -> Tensor:
    """alpha L(m w, b) + (1 - alpha) L((m + d) w, (1 + xi) b) for given d and xi."""
    still = [torch.zeros_like(mask) for mask in masks]
    moved = [mask + d for mask, d in zip(masks, scales, strict=True)]
    natural = masked_loss(model, masks, still, x, y)
    return alpha * natural + (1 - alpha) * masked_loss(model, moved, shifts, x, y)


def adversary(model: nn.Module, masks: Weights, x: Tensor, y: Tensor, epsilon: float) -> tuple[Weights, Weights]:
    """d and xi: a random start in [-eps, eps], one step of eps along the sign of the gradient, and back into the box.

    The start is drawn from the default generator.
    """
    start = [(2 * torch.rand_like(mask) - 1) * epsilon for mask in (*masks, *masks)]
    free = [part.requires_grad_() for part in start]
    scales, shifts = free[: len(masks)], free[len(masks) :]
    moved = [mask.detach() + d for mask, d in zip(masks, scales, strict=True)]
    gradients = torch.autograd.grad(masked_loss(model, moved, shifts, x, y), free)
    ends = [
        (part.detach() + epsilon * g.sign()).clamp(-epsilon, epsilon) for part, g in zip(free, gradients, strict=True)
    ]
    return ends[: len(masks)], ends[len(masks) :]


@torch.no_grad()
def prune(model: nn.Module, masks: Weights, threshold: float) -> float:
    """Set the scales whose mask is below `threshold` to 0; their share."""
    gone = [mask < threshold for mask in masks]
    for norm, out in zip(norms(model).values(), gone, strict=True):
        norm.weight[out] = 0
    return float(torch.cat(gone).float().mean())
