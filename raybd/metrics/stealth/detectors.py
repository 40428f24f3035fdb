"""Detectors: STRIP, on test images, and low training loss, which tells poison that is learnt fast."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.models.batch_size import batch_size, batched
from raybd.utils.statistics import auroc

BLENDS = 32  # clean images that each image is blended with
BATCH = 512  # at most


@torch.inference_mode()
def strip_entropy(model: nn.Module, x: Tensor, others: Tensor) -> Tensor:
    """(N,) mean over j of the entropy (nats) of softmax f(min(x + others_j, 1)); `x` (N, C, H, W), `others` (M, ...).

    Images are added at full strength, as in the paper (Gao et al., arXiv 1902.06531); a trigger that outlives it
    keeps the entropy low.
    """
    size = batch_size(model, x, BATCH)
    rows = max(1, size // len(others))
    return torch.cat([_entropy(model, part, others, size) for part in x.split(rows)])


def _entropy(model: nn.Module, x: Tensor, others: Tensor, size: int) -> Tensor:
    blends = (x[:, None] + others[None]).clamp_max(1)
    logits = batched(model, blends.flatten(0, 1), size=size)
    chance = logits.float().softmax(1)
    entropy: Tensor = torch.special.entr(chance).sum(1)
    return entropy.view(len(x), -1).mean(1)


def strip_auroc(model: nn.Module, clean: Tensor, triggered: Tensor, others: Tensor) -> float:
    """Chance that a triggered image has the lower STRIP entropy of a triggered and a clean one."""
    scores = (-strip_entropy(model, x, others).cpu().double().numpy() for x in (clean, triggered))
    return auroc(*scores)


def loss_auroc(losses: Tensor, poison: Tensor) -> float:
    """Chance that a poisoned training image has the lower loss of it and another (ABL: Li et al., arXiv 2110.11571)."""
    scores, mask = -losses.cpu().double().numpy(), poison.cpu().numpy()
    return auroc(scores[~mask], scores[mask])


@torch.inference_mode()
def training_losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) cross-entropy (nats) of `model` on bytes `x` (N, C, H, W) with the labels `y` that it was shown."""
    size = batch_size(model, x, BATCH)

    def losses(some: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(some.float() / 255).float(), labels, reduction="none")

    return batched(losses, x, y, size=size)
