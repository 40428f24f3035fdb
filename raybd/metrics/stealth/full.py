"""The metric stealth_full: channels, weights, features and detectors; as many forward passes as one to three epochs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from raybd.metrics.base import Metric, measured_only
from raybd.metrics.stealth.channels import (
    activation_overlap,
    max_z_score,
    mean_activations,
    top_share,
    trigger_activated_change,
)
from raybd.metrics.stealth.detectors import BLENDS, loss_auroc, strip_auroc, training_losses
from raybd.metrics.stealth.extras import MODULES, lpips, missing_packages, top_hessian_eigenvalue
from raybd.metrics.stealth.image_pairs import ImagePairs, poison_mask, sample_pairs
from raybd.metrics.stealth.latent import enough_for_folds, latent_features, separability
from raybd.metrics.subset import random_images, random_subset
from raybd.models.lipschitz import channel_lipschitz
from raybd.plugins import unknown
from raybd.seeds import forked_rng
from raybd.types import Data, MetricContext

MAX_PAIRS = 200  # test images for channels and STRIP
MAX_LATENT_IMAGES = 2000  # training images of one label
MAX_HESSIAN_IMAGES = 1000  # training images
EARLY_EPOCHS = 5  # epochs in which losses tell fast learners


@dataclass(frozen=True, kw_only=True)
class StealthFull(Metric):
    """Channels, weights, features, STRIP and losses; `extras` adds the Hessian's top eigenvalue and LPIPS."""

    extras: tuple[Literal["hessian", "lpips"], ...] = ()

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Everything after the last epoch; before it, up to the fifth epoch, how the losses tell poison."""
        found: dict[str, float] = {}
        with forked_rng(context.seed, "stealth_full", device=context.data.test.x.device):
            if context.epoch <= EARLY_EPOCHS or context.last:
                found |= loss_dynamics(context)
            images = sample_pairs(context, MAX_PAIRS)
            if context.last and len(images.true):
                found |= {
                    **channel_changes(context.model, images),
                    **weight_outliers(context.model),
                    **latent_separability(context),
                    **strip(context, images),
                }
                found |= self._extras(context, images)
        return {f"stealth/{name}": value for name, value in measured_only(found).items()}

    def problems(self, data: Data, noise: float) -> list[str]:
        """Extras that do not exist, or whose package is missing."""
        return unknown("extra of stealth_full", self.extras, MODULES) or missing_packages(self.extras)

    def _extras(self, context: MetricContext, images: ImagePairs) -> dict[str, float]:
        found = {}
        if "lpips" in self.extras:
            found["lpips"] = float(lpips(images.clean, images.triggered).mean())
        if "hessian" in self.extras:
            train = random_images(context.poisoned.images, MAX_HESSIAN_IMAGES, context.seed, "stealth", "hessian")
            found["hessian_top"] = top_hessian_eigenvalue(context.model, train.x.float() / 255, train.y)
        return found


def loss_dynamics(context: MetricContext) -> dict[str, float]:
    """AUROC of low training loss for poison at this epoch; nothing where all or none are poisoned."""
    mask, train = poison_mask(context), context.poisoned.images
    if not mask.any() or mask.all():
        return {}
    return {"loss_auroc": loss_auroc(training_losses(context.model, train.x, train.y), mask)}


def channel_changes(model: nn.Module, images: ImagePairs) -> dict[str, float]:
    """For every layer the share of the trigger's change in its top channels, and the overlap of active halves."""
    change = trigger_activated_change(model, images.clean, images.triggered)
    clean, triggered = (mean_activations(model, x) for x in (images.clean, images.triggered))
    found = {f"tac_top_share/{name}": top_share(values) for name, values in change.items()}
    return found | {f"neuron_overlap/{name}": activation_overlap(clean[name], triggered[name]) for name in clean}


def weight_outliers(model: nn.Module) -> dict[str, float]:
    """For every layer, by how many deviations its steepest channel stands out."""
    return {f"channel_lipschitz/{name}": max_z_score(values) for name, values in channel_lipschitz(model).items()}


def latent_separability(context: MetricContext) -> dict[str, float]:
    """Separability of poison among the training images of its label; of several labels the mean, by poison count."""
    mask, found, counts = poison_mask(context).cpu(), [], []
    train = context.poisoned.images
    for label in train.y.cpu()[mask].unique().tolist():
        rows = (train.y.cpu() == label).nonzero().flatten()
        rows = random_subset(rows, MAX_LATENT_IMAGES, context.seed, "stealth", "latent")
        poison = mask[rows].numpy()
        if enough_for_folds(poison):
            found.append(separability(latent_features(context.model, train.x[rows.to(train.x.device)]), poison))
            counts.append(int(poison.sum()))
    if not found:
        return {}
    return {f"latent/{name}": float(np.average([part[name] for part in found], weights=counts)) for name in found[0]}


def strip(context: MetricContext, images: ImagePairs) -> dict[str, float]:
    """AUROC of STRIP against this trigger, blending with clean training images."""
    others = random_images(context.data.train, BLENDS, context.seed, "stealth", "strip").x.float() / 255
    return {"strip_auroc": strip_auroc(context.model, images.clean, images.triggered, others)}
