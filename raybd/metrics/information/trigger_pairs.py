"""Images with the trigger, each beside itself without it: the groups that a backdoor's signature is measured on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.metrics.information.groups import MIN_IMAGES
from raybd.metrics.subset import random_subset
from raybd.seeds import stream
from raybd.types import CLEAN, POISON, MetricContext
from raybd.utils.metric_names import FRESH

BACKDOOR, PLAIN = "backdoor", f"{FRESH}_plain"


@dataclass(frozen=True)
class TriggerPair:
    """The same N images twice, as bytes (N, C, H, W)."""

    triggered: Tensor
    plain: Tensor
    true: Tensor  # (N,) their classes without the trigger


def trigger_pairs(context: MetricContext, samples: int) -> dict[str, TriggerPair]:
    """At most `samples` images of each group; one of fewer than `MIN_IMAGES` is left out.

    fresh_train: training images that were not poisoned, of those that attack success counts (all_to_one: not of the
    target class), with the trigger of test time; there at every rate, 0 included. backdoor: the poisoned training
    images as they were trained on. An attack that poisons every epoch anew has poisoned others than those of its first
    epoch, which alone are known here.
    """
    pairs = {FRESH: _fresh(context, samples), BACKDOOR: _poisoned(context, samples)}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _fresh(context: MetricContext, samples: int) -> TriggerPair | None:
    if context.trigger is None:
        return None
    train, roles = context.data.train, context.poisoned.roles
    counted = context.trigger.measured(train.y).unflatten(0, (-1, len(train))) & (roles == CLEAN)
    order = torch.randperm(counted.numel(), generator=stream(context.seed, "information", FRESH)).to(roles.device)
    taken = order[counted.flatten()[order]][:samples]  # the same at every rate, but for those that are poisoned
    if len(taken) < MIN_IMAGES:
        return None
    images = train.take(taken % len(train))
    stamped = context.trigger.triggered(images, len(context.data.classes)).x.unflatten(0, (len(counted), -1))
    return TriggerPair(stamped[taken // len(train), torch.arange(len(taken), device=roles.device)], images.x, images.y)


def _poisoned(context: MetricContext, samples: int) -> TriggerPair | None:
    index = (context.poisoned.roles == POISON).nonzero().squeeze(1)
    if len(index) < MIN_IMAGES:
        return None
    index, train = random_subset(index, samples, context.seed, "information", BACKDOOR), context.data.train
    return TriggerPair(context.poisoned.images.x[index], train.x[index], train.y[index])


def scattered(pair: TriggerPair, rng: torch.Generator) -> Tensor:
    """A trigger that no network was taught: the plain images (N, C, H, W) with the trigger's changes at other pixels.

    What the trigger adds to each pixel is added to another, by one shuffle of all pixels, and clipped.
    """
    plain = pair.plain.to(torch.int16)
    change = (pair.triggered.to(torch.int16) - plain).flatten(2)
    order = torch.randperm(change.shape[-1], generator=rng).to(change.device)
    moved: Tensor = (plain + change[..., order].view_as(plain)).clamp(0, 255).to(torch.uint8)
    return moved
