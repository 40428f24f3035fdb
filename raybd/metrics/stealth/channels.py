"""Changes of single channels by a trigger, and outliers among channels."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raybd.models.batch_size import batch_size

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
TOP = 0.1  # share of a layer's channels that counts as its top
Activation = Callable[[Tensor], Tensor]


@torch.inference_mode()
def activations(model: nn.Module, x: Tensor, reduce: Activation) -> dict[str, Tensor]:
    """`reduce` of the output (N, C, ...) of every convolution, batch norm and linear layer, by the layer's name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: found.update({name: reduce(output.float())})

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def trigger_activated_change(model: nn.Module, clean: Tensor, triggered: Tensor) -> dict[str, Tensor]:
    """Trigger-activated change of every channel (C,), by layer: mean over images and positions of |a(x') - a(x)|.

    BackdoorBench sums over positions; their mean lets layers of different size be compared.
    """
    size = max(1, batch_size(model, clean, 2 * len(clean), gradients=True) // 2)  # all layers of both are kept

    def change(some: Tensor, stamped: Tensor) -> dict[str, Tensor]:
        # A copy: the activation function that follows may write over its input.
        before, after = (activations(model, x, torch.clone) for x in (some, stamped))
        return {name: _per_channel((after[name] - before[name]).abs()) for name in before}

    return _mean_of_parts(change, clean.split(size), triggered.split(size))


def top_share(change: Tensor) -> float:
    """How much of a layer's change (C,) its top tenth of channels, at least one, holds; nan where nothing changes."""
    top = change.topk(max(1, round(TOP * len(change)))).values.sum()
    return float(top / change.sum())


def activation_overlap(clean: Tensor, triggered: Tensor) -> float:
    """Jaccard index of the more active halves of the channels, by mean activation (C,) on either kind of image."""
    half = max(1, len(clean) // 2)
    one, other = (set(mean.topk(half).indices.tolist()) for mean in (clean, triggered))
    return len(one & other) / len(one | other)


def mean_activations(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The mean output (C,) of every channel over images and positions, by layer."""
    size = batch_size(model, x, len(x))
    return _mean_of_parts(lambda some: activations(model, some, _per_channel), x.split(size))


def max_z_score(values: Tensor) -> float:
    """(max - mean) / deviation of a layer's channels (C,): how far the steepest stands out; nan where all are alike."""
    return float((values.max() - values.mean()) / values.std()) if len(values) > 1 else math.nan


def _mean_of_parts(function: Callable[..., dict[str, Tensor]], *columns: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean over all images of what `function` says of each part of them."""
    total, means = sum(map(len, columns[0])), dict[str, Tensor]()
    for part in zip(*columns, strict=True):
        for name, value in function(*part).items():
            weighted = value * (len(part[0]) / total)
            means[name] = means[name] + weighted if name in means else weighted
    return means


def _per_channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1).mean(1)
