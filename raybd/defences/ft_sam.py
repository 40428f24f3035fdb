"""FT-SAM: fine-tuning that looks for flat minima, which shrinks the large weights that hold a backdoor.

Zhu, Wei, Shen, Fan and Wu, "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization",
ICCV 2023 (arXiv:2304.11823).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, descend, statistics_kept
from raybd.types import Images
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class FtSam(CleanRepair):
    """min_w max_e L(w + e) with ||e / |w| ||_2 <= rho: as far as e goes, it follows the size of each weight."""

    steps: Annotated[int, Ge(1)] = 500
    learning_rate: Positive = 0.05  # with rho, chosen on small sets
    rho: Positive = 4.0
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = field(default=0.0, metadata={"since": "0.3"})

    # of its authors' configuration for CIFAR-10: 100 passes over 2,500 images in batches of 256
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backdoorbench": {"steps": 1000, "learning_rate": 0.01, "rho": 2.0, "label_smoothing": 0.1}
    }

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """SGD with the gradients of the perturbed network."""
        weights = list(model.parameters())

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y, label_smoothing=self.label_smoothing)

        def backward(x: Tensor, y: Tensor) -> None:
            loss(x, y).backward()
            with statistics_kept(model):
                sharp_gradient(weights, lambda: loss(x, y), self.rho)

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
