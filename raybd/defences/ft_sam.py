"""FT-SAM: fine-tuning that looks for flat minima, which shrinks the large weights that hold a backdoor.

Zhu, Wei, Shen, Fan and Wu, "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization",
ICCV 2023 (arXiv:2304.11823).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, descend, statistics_kept
from raybd.types import Images
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class FtSam(CleanRepair):
    """min_w max_e L(w + e) with ||e / |w| ||_2 <= rho: as far as e goes, it follows the size of each weight."""

    steps: Annotated[int, Ge(1)] = 500
    learning_rate: Positive = 0.05  # with rho, chosen on small sets; published for CIFAR-10: 0.01 and 2
    rho: Positive = 4.0

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """SGD with the gradients of the perturbed network."""
        weights = list(model.parameters())

        def backward(x: Tensor, y: Tensor) -> None:
            F.cross_entropy(model(x), y).backward()
            with statistics_kept(model):
                sharp_gradient(weights, lambda: F.cross_entropy(model(x), y), self.rho)

        descend(model, clean, context, self.steps, self.learning_rate, backward)
        return {}


def adaptive_ascent(weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """e = rho T^2 g / ||T g||_2 with T = diag(|w|) over all weights together: the ascent to first order."""
    scaled = [w.abs() * g for w, g in zip(weights, gradients, strict=True)]
    length = torch.stack([part.norm() for part in scaled]).norm().clamp_min(1e-12)
    return [rho * w.abs() * part / length for w, part in zip(weights, scaled, strict=True)]


def sharp_gradient(weights: Sequence[Tensor], loss: Callable[[], Tensor], rho: float) -> None:
    """Put the gradient of `loss` at w + e in place of that at w, which the weights must hold; w is left as it was."""
    with torch.no_grad():
        before = [w.clone() for w in weights]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        for w, e in zip(weights, adaptive_ascent(weights, gradients, rho), strict=True):
            w.add_(e)
            w.grad = None
    loss().backward()
    with torch.no_grad():
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)  # exact, where adding and subtracting e is not
