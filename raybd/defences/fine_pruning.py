"""Fine-pruning: neurons that sleep on clean images go, then the network is fine-tuned.

Liu, Dolan-Gavitt and Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018
(arXiv:1805.12185), section 4.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, accuracy, fine_tune, require_layers
from raybd.models import Classifier
from raybd.models.batch_size import batch_size
from raybd.training import prepare
from raybd.types import Images
from raybd.utils.constraints import Positive, Share


@dataclass(frozen=True, kw_only=True)
class FinePruning(CleanRepair):
    """Prunes the features that the head reads, the least active first, while clean accuracy holds; then fine-tunes.

    With pooled features these are the channels of the last block, the paper's last convolution: a feature that no
    head reads is a channel that is not there. Activation is mean |t|: t itself after a ReLU, and a measure of silence
    where features have signs, as behind the layer norms of transformers and ConvNeXt.
    """

    tolerance: Share = 0.04  # of clean accuracy that pruning may cost
    steps: Annotated[int, Ge(1)] = 500
    learning_rate: Positive = 0.01

    def network(self, model: nn.Module) -> nn.Module:
        """`model` as it is. Raises InputError where it does not tell its features."""
        require_layers("fine_pruning", isinstance(model, Classifier), "a linear head on its features")
        return model

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Prune, then fine-tune with the pruned features gone."""
        assert isinstance(model, Classifier)
        order = mean_features(model, clean, context).argsort(stable=True)
        gone = prune(model, order, clean, context, self.tolerance)
        weight = model.head.weight
        fine_tune(model, clean, context, self.steps, self.learning_rate, lambda: silence(weight, gone))
        return {"defence/pruned": len(gone) / model.feature_size}


@torch.no_grad()
def mean_features(model: Classifier, clean: Images, context: TrainingContext) -> Tensor:
    """(D,) mean |activation| on `clean` of every feature that the head reads."""
    read: list[Tensor] = []
    size = batch_size(model, clean.x, 512)
    hook = model.head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].double().abs().sum(0)))
    model.eval()
    try:
        for x in clean.x.split(size):
            model(prepare(x, context.train_config))
    finally:
        hook.remove()
    return torch.stack(read).sum(0) / len(clean)


def prune(model: Classifier, order: Tensor, clean: Images, context: TrainingContext, tolerance: float) -> Tensor:
    """Silence features in `order` (D,) until the next would cost more than `tolerance`; those that went.

    The last feature of all stays.
    """
    weight = model.head.weight
    least = accuracy(model, clean, context) - tolerance
    for count in range(1, len(order)):
        before = weight.detach()[:, order[count - 1]].clone()
        silence(weight, order[:count])
        if accuracy(model, clean, context) < least:
            with torch.no_grad():
                weight[:, order[count - 1]] = before
            return order[: count - 1]
    return order[:-1]


@torch.no_grad()
def silence(weight: Tensor, gone: Tensor) -> None:
    """Set the columns `gone` of the head's `weight` (K, D) to 0."""
    weight[:, gone] = 0
