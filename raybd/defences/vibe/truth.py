"""Where VIBE's accuracy and its defence are lost, told with the truth, which VIBE does not see."""

import torch
from torch import Tensor

from raybd.defences.base import ENCODER, TrainingContext
from raybd.defences.vibe.training import FIRST_PSEUDOLABEL, PSEUDOLABEL
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.pretraining import embed
from raybd.pretraining.linear_probe import fit_linear
from raybd.types import POISON, Images, Poisoned

PROBED = 5000  # training images of a probe, at most


def relabelling(context: TrainingContext, poisoned: Poisoned) -> dict[str, float]:
    """What became of the poison's labels; empty without poison, or of a defence that gives none.

    "vibe/first_right": the share of poisoned images whose first pseudolabel is their true class, "vibe/poison_kept" and
    "vibe/poison_kept_count": those whose last one is the label that the attacker gave.
    """
    poison, findings = (poisoned.roles == POISON).cpu(), context.findings
    if PSEUDOLABEL not in findings or not bool(poison.any()):
        return {}
    true, given = poisoned.true.cpu()[poison], poisoned.images.y.cpu()[poison]
    first, last = (findings[name].cpu()[poison] for name in (FIRST_PSEUDOLABEL, PSEUDOLABEL))
    kept = last == given
    numbers = {"vibe/first_right": first == true, "vibe/poison_kept": kept}
    shares = {name: float(which.float().mean()) for name, which in numbers.items()}
    return shares | {"vibe/poison_kept_count": float(kept.sum())}


def probe_accuracy(context: TrainingContext, true: Tensor, test: Images) -> dict[str, float]:
    """How well the features that VIBE has at its end tell the classes; empty where no other image has features.

    "vibe/probe_accuracy": on the clean images `test`, of a linear probe that the `true` labels (N,) of the training
    images taught.
    """
    encoder = context.networks.get(ENCODER)
    if not isinstance(encoder, Classifier):
        return {}
    images, n = context.images.at(1), len(context.images)
    index = torch.arange(min(n, PROBED), device=images.x.device) * n // min(n, PROBED)
    with without_noise():
        v, w = (embed(encoder, x, context.heartbeat) for x in (images.part(index).x, test.x))
    weight, bias = fit_linear(v, true[index.to(true.device)].to(v.device), context.classes, heartbeat=context.heartbeat)
    right = (torch.addmm(bias, w, weight.T).argmax(1) == test.y.to(w.device)).float().mean()
    return {"vibe/probe_accuracy": float(right)}
