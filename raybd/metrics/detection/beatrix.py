"""Beatrix: triggered images have correlations between feature maps that clean images of their class do not have.

Ma, Wang, Sun, Xue, Wen and Xiang, "The 'Beatrix' Resurrections: Robust Backdoor Detection via Gram Matrices", NDSS 2023
(arXiv:2209.11715). Constants as in the authors' code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.metrics.subset import random_images
from raybd.models.batch_size import batch_size, batched
from raybd.types import MetricContext

BATCH = 64  # at most: Gram matrices are large
TINY = 1e-6
Limits = tuple[Tensor, Tensor]  # least and largest of each order and entry, (P, C, C)


@dataclass(frozen=True, kw_only=True)
class Beatrix(InputDetector):
    """The score is how far the Gram matrices of an image's last feature maps lie outside those of its class.

    Its class is the network's. Limits are the median -+ `spread` median absolute deviations over clean images of that
    class: validation images where some are set aside, else training images before they were poisoned.
    """

    orders: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    spread: Annotated[float, Gt(0)] = 10.0
    clean: Annotated[int, Ge(2)] = 30  # images of a class, at most

    name: ClassVar[str] = "beatrix"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """The deviation (N,) of each image, at least 0.

        Raises:
            InputError: the network has no maps of features.
        """
        if not len(x):
            return np.zeros(0)
        limits, found = self._class_limits(model, context), np.zeros(len(x))
        classes, maps = _classes_and_maps(model, x)
        for label in classes.unique().tolist():
            own = classes == label
            grams = gram_matrices(maps[own], self.orders)
            found[own.cpu().numpy()] = deviations(grams, limits[label]).cpu().numpy()
        return found

    def _class_limits(self, model: nn.Module, context: MetricContext) -> list[Limits]:
        """The limits of each class; of one with fewer than two clean images, those of all."""
        pool = context.clean_images
        images = random_images(pool, len(pool), context.seed, "beatrix", "clean")
        by_class = [images.x[images.y == label][: self.clean] for label in range(len(context.data.classes))]
        everything = torch.cat(by_class)
        found = []
        for chosen in by_class:
            shown = (chosen if len(chosen) > 1 else everything).float() / 255
            found.append(gram_limits(gram_matrices(_classes_and_maps(model, shown)[1], self.orders), self.spread))
        return found


def gram_matrices(maps: Tensor, orders: tuple[int, ...]) -> Tensor:
    """(N, P, C, C): for each order p the p-th root, signs kept, of F^p (F^p)^T above and on the diagonal, else 0.

    Args:
        maps: F (N, C, M), M positions.
        orders: p, P of them.
    """
    powers = torch.stack([maps.double() ** p for p in orders], 1)
    grams = (powers @ powers.transpose(-1, -2)).triu()
    roots = torch.tensor([1 / p for p in orders], dtype=torch.float64, device=maps.device).view(-1, 1, 1)
    return grams.sign() * grams.abs() ** roots


def gram_limits(grams: Tensor, spread: float) -> Limits:
    """Median -+ `spread` times the median absolute deviation, over images, of matrices (N, P, C, C)."""
    median = _median(grams)
    deviation = _median((grams - median).abs())
    return median - spread * deviation, median + spread * deviation


def _median(x: Tensor) -> Tensor:
    """The lower median over the first axis, by sorting, which is repeatable on a GPU."""
    return x.sort(dim=0).values[(len(x) - 1) // 2]


def deviations(grams: Tensor, limits: Limits) -> Tensor:
    """(N,): sum over orders and entries of the share by which matrices (N, P, C, C) lie outside, over P C^2 / 2."""
    low, high = limits
    under, over = (low - grams).relu() / (low + TINY).abs(), (grams - high).relu() / (high + TINY).abs()
    orders, channels = grams.shape[1:3]
    return (under + over).sum((1, 2, 3)) / (orders * channels**2 / 2)


@torch.inference_mode()
def _classes_and_maps(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The classes (N,) of the images `x` (N, C, H, W) in [0, 1], and the last maps (N, D, M) that the network makes."""
    kept: dict[str, Tensor] = {}
    hooks = [part.register_forward_hook(_keep(kept)) for part in model.modules() if not any(part.children())]
    try:
        rows = batched(partial(_pass, model, kept), x, size=batch_size(model, x, BATCH))
    finally:
        for hook in hooks:
            hook.remove()
    channels = kept["maps"].shape[1]
    return rows[:, 0].long(), rows[:, 1:].unflatten(1, (channels, -1))


def _pass(model: nn.Module, kept: dict[str, Tensor], x: Tensor) -> Tensor:
    """(N, 1 + D M): the class and the maps of each image."""
    kept.pop("maps", None)
    classes = model(x).argmax(1)
    if "maps" not in kept:
        raise InputError("beatrix needs maps of features (N, C, H, W), and this network makes none")
    return torch.cat([classes[:, None].double(), kept["maps"].flatten(1).double()], 1)


def _keep(kept: dict[str, Tensor]) -> Callable[[nn.Module, object, object], None]:
    """A hook that keeps the output of its module if it is maps of several positions."""

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-2:].numel() > 1:
            kept["maps"] = output.clone()  # the module after it may write over it

    return hook
