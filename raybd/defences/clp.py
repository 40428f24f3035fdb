"""CLP: channels that can be far steeper than the others of their layer are pruned; no image is needed.

Zheng, Tang, Li and Liu, "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022 (arXiv:2208.03111).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import Numbers, PostTraining, require_layers
from raybd.models.lipschitz import channel_lipschitz, norm_after
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class Clp(PostTraining):
    """Prunes the channels of each convolution whose UCLC is above mean + u deviations of the layer's.

    Of n channels none can be more than (n - 1) / sqrt(n) deviations out: layers of up to 10 are never pruned at u = 3.
    """

    u: Positive = 3.0

    def network(self, model: nn.Module) -> nn.Module:
        """`model` as it is. Raises InputError where it has no convolution with batch norm."""
        require_layers("clp", bool(norm_after(model)), "convolutions that batch norms follow")
        return model

    def apply(self, context: TrainingContext) -> Numbers:
        """Prune; nothing is trained."""
        return {"defence/pruned": prune(context.model, self.u), "defence/extra_images": 0.0}


def steep(values: Tensor, u: float) -> Tensor:
    """Mask (C,) of the channels whose Lipschitz value (C,) is above mean + u standard deviations (n - 1 below)."""
    if len(values) < 2:
        return torch.zeros_like(values, dtype=torch.bool)
    return values > values.mean() + u * values.std()


@torch.no_grad()
def prune(model: nn.Module, u: float) -> float:
    """Silence every steep channel: its weights, and scale and shift of the batch norm that follows; their share."""
    values, total, gone = channel_lipschitz(model), 0, 0
    for name, norm in norm_after(model).items():
        out = steep(values[name], u)
        convolution = model.get_submodule(name)
        for part in (convolution.weight, convolution.bias, norm.weight, norm.bias):
            if isinstance(part, Tensor):
                part[out] = 0
        total, gone = total + len(out), gone + int(out.sum())
    return gone / total
