"""The exact slope of a small network that was trained to its optimum: conjugate gradients know no convexity.

For a network that was stopped before, or trained without weight decay, it is no derivative of anything: take secants
over trainings with several betas (analysis/learning_curves.py).
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.convex.learner import NotUniqueError
from raybd.convex.newton import conjugate_gradient
from raybd.convex.slope import theta
from raybd.convex.task import Array
from raybd.types import Images

SOLVED = 1e-8  # relative residual of the solve


@dataclass(frozen=True)
class NetworkSlope:
    """dB/dbeta at beta = 0 for a network trained without the poison, in nats."""

    derivative: float
    gradient: float  # norm of the training objective's gradient: the derivative is exact only where this is 0

    @property
    def theta(self) -> float:
        """The slope in [-1, 1]."""
        return theta(self.derivative)


def network_slope(
    model: nn.Module, clean: Images, poison: Images, triggered: Images, weight_decay: float, damping: float = 0.0
) -> NetworkSlope:
    """-gbar^T (H + damping)^-1 g_P, with products of H by differentiating twice, in double precision.

    H is the Hessian of mean CE on `clean` + weight_decay / 2 |phi|^2, g_P the gradient of the summed CE on `poison`
    over the number of clean images, gbar that of the mean CE on `triggered` (all with the labels that the learner is
    told or the attacker wants). `model` is looked at in evaluation mode and left as it is. Any damping biases the
    slope towards 0 (arXiv 2106.07214 in raybd's notation; products: Pearlmutter 1994).

    Raises:
        NotUniqueError: curvature is not above 0 in some direction, so the network is at no minimum.
    """
    model = copy.deepcopy(model).double().eval()
    weights = [p.requires_grad_() for p in model.parameters()]
    objective = _loss(model, clean) / len(clean) + weight_decay / 2 * sum((p * p).sum() for p in weights)
    first = _flat(torch.autograd.grad(objective, weights, create_graph=True))

    def product(v: Array) -> Array:
        second = torch.autograd.grad(first, weights, torch.from_numpy(v).to(first.device), retain_graph=True)
        image = _flat(second).cpu().numpy() + damping * v
        if (curvature := float(v @ image)) <= 0:
            raise NotUniqueError(f"a curvature of {curvature:.2g}: the network is at no minimum, and has no slope")
        found: Array = image
        return found

    pushed = _flat(torch.autograd.grad(_loss(model, poison) / len(clean), weights)).cpu().numpy()
    seen = _flat(torch.autograd.grad(_loss(model, triggered) / len(triggered), weights)).cpu().numpy()
    derivative = -float(conjugate_gradient(product, seen, SOLVED) @ pushed)
    return NetworkSlope(derivative, float(first.detach().norm()))


def _loss(model: nn.Module, images: Images) -> Tensor:
    return F.cross_entropy(model(images.x.double() / 255), images.y, reduction="sum")


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
