"""Tier B: what detectors see, on request; one to three epochs' worth of forward passes after the last epoch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from raybd.metrics.base import Metric
from raybd.metrics.stealth.channels import mean_activations, outliers, overlap, tac, top_share
from raybd.metrics.stealth.consistency import BLENDS, loss_auroc, strip_auroc, training_losses
from raybd.metrics.stealth.extras import MODULES, absent, lpips, top_curvature
from raybd.metrics.stealth.latent import features, separability, separable
from raybd.metrics.stealth.sample import Sample, poisoned, sample
from raybd.models.lipschitz import channel_lipschitz
from raybd.plugins import unknown
from raybd.seeds import forked_rng, stream
from raybd.types import Data, MetricContext

FEW = 200  # test images for channels and STRIP
LATENT = 2000  # training images of one label
HESSIAN = 1000  # training images
EARLY = 5  # epochs in which losses tell fast learners


@dataclass(frozen=True, kw_only=True)
class StealthFull(Metric):
    """Channels, weights, features, STRIP and losses; `extras` adds the Hessian's top eigenvalue and LPIPS."""

    extras: tuple[Literal["hessian", "lpips"], ...] = ()

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Everything after the last epoch; before it, up to the fifth epoch, how the losses tell poison."""
        found: dict[str, float] = {}
        with forked_rng(context.seed, "stealth_full", device=context.data.test.x.device):
            if context.epoch <= EARLY or context.last:
                found |= dynamics(context)
            images = sample(context, FEW)
            if context.last and len(images.true):
                found |= {
                    **channels(context.model, images),
                    **weights(context.model),
                    **latent(context),
                    **strip(context, images),
                }
                found |= self._extras(context, images)
        return {f"stealth/{name}": value for name, value in found.items()}

    def problems(self, data: Data, noise: float) -> list[str]:
        """Extras that do not exist, or whose package is missing."""
        return unknown("extra of stealth_full", self.extras, MODULES) or absent(self.extras)

    def _extras(self, context: MetricContext, images: Sample) -> dict[str, float]:
        found = {}
        if "lpips" in self.extras:
            found["lpips"] = float(lpips(images.clean, images.triggered).mean())
        if "hessian" in self.extras:
            some = _some(len(context.poisoned.images), HESSIAN, context.seed, "hessian").to(context.data.train.x.device)
            shown = context.poisoned.images.take(some)
            found["hessian_top"] = top_curvature(context.model, shown.x.float() / 255, shown.y)
        return found


def dynamics(context: MetricContext) -> dict[str, float]:
    """AUROC of low training loss for poison at this epoch; nothing where all or none are poisoned."""
    mask, shown = poisoned(context), context.poisoned.images
    if not mask.any() or mask.all():
        return {}
    return {"loss_auroc": loss_auroc(training_losses(context.model, shown.x, shown.y), mask)}


def channels(model: nn.Module, images: Sample) -> dict[str, float]:
    """For every layer the share of the trigger's change in its top channels, and the overlap of active halves."""
    change = tac(model, images.clean, images.triggered)
    clean, triggered = (mean_activations(model, x) for x in (images.clean, images.triggered))
    found = {f"tac_top_share/{name}": top_share(values) for name, values in change.items()}
    return found | {f"neuron_overlap/{name}": overlap(clean[name], triggered[name]) for name in clean}


def weights(model: nn.Module) -> dict[str, float]:
    """For every layer, by how many deviations its steepest channel stands out."""
    return {f"channel_lipschitz/{name}": outliers(values) for name, values in channel_lipschitz(model).items()}


def latent(context: MetricContext) -> dict[str, float]:
    """Separability of poison among the training images of its label; of several labels the mean, by poison count."""
    mask, found, counts = poisoned(context).cpu(), [], []
    shown = context.poisoned.images
    for label in shown.y.cpu()[mask].unique().tolist():
        rows = (shown.y.cpu() == label).nonzero().flatten()
        rows = rows[_some(len(rows), LATENT, context.seed, "latent")]
        poison = mask[rows].numpy()
        if separable(poison):
            found.append(separability(features(context.model, shown.x[rows.to(shown.x.device)]), poison))
            counts.append(int(poison.sum()))
    if not found:
        return {}
    return {f"latent/{name}": float(np.average([part[name] for part in found], weights=counts)) for name in found[0]}


def strip(context: MetricContext, images: Sample) -> dict[str, float]:
    """AUROC of STRIP against this trigger, blending with clean training images."""
    train = context.data.train
    some = _some(len(train), BLENDS, context.seed, "strip").to(train.x.device)
    others = train.x[some].float() / 255
    return {"strip_auroc": strip_auroc(context.model, images.clean, images.triggered, others)}


def _some(n: int, most: int, seed: int, name: str) -> Tensor:
    return torch.randperm(n, generator=stream(seed, "stealth", name))[:most]
