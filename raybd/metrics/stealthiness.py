"""Stealthiness in T, the pooled last block: can the backdoor be told from its target class, and does it keep meaning?

Measured at the last epoch; what needs several epochs, S_dev and S1, is in `information/stealth_scores.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raybd.metrics.base import History, Metric
from raybd.metrics.information.bounds import to_metrics
from raybd.metrics.information.decoders import decoded_information
from raybd.metrics.information.groups import MIN_IMAGES, target_label
from raybd.metrics.information.noisy_features import noisy_features, require_classifier
from raybd.metrics.information.silhouette import silhouettes
from raybd.metrics.information.stealth_scores import stealth_scores
from raybd.metrics.subset import random_subset
from raybd.seeds import derive, forked_rng, stream
from raybd.types import COVER, POISON, Data, MetricContext

DECODERS = ("logistic", "regularised_logistic", "neighbours")
PERMUTATIONS = 5  # of labels, each at the price of the measurement itself
DRAWS = 4  # noise draws of an image, of which the first is decoded


@dataclass(frozen=True, kw_only=True)
class Stealthiness(Metric):
    """S2 and silhouettes, each with its null: what the same measurement says of the clean twin.

    Beside information on flags and classes, /permuted: the same with the labels in random order. What cannot be
    measured is absent: a flag or a class with too few images.

    stealth/decodability: I(B;T | label = target), B saying whether an image is poisoned; 0: not to be told apart. At
    most H(B | label = target). null: as many images of the twin's target class, flagged at random.
    stealth/semantics: I(S;T | B = 1), S being the true class; at most H(S). null: the same images in the twin,
    trigger and all: what is left of the class where only the trigger's pixels stand in the way.
    stealth/silhouette/...: of T in units of its noise; see `silhouette.py`. null: likewise.
    stealth/count/...: images; of fewer than 32 poisoned ones, or of clean ones of the target, nothing is said.
    """

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    samples: int = 512  # images of the target class, and of the backdoor, at most

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """stealth/... as above; of an attack with several targets nothing but the count."""
        roles, target = context.poisoned.roles, target_label(context.poisoned)
        whole = (context.poisoned.images.y == (-1 if target is None else target)) & (roles != COVER)
        poison, clean = int((roles == POISON).sum()), int((whole & (roles != POISON)).sum())
        found: dict[str, float | Tensor] = {
            "stealth/count/backdoor": float(poison),
            "stealth/count/target_clean": clean,
        }
        if target is None or min(poison, clean) < MIN_IMAGES or context.twin is None:
            return found
        with forked_rng(context.seed, "stealthiness", context.epoch, device=roles.device):
            found |= self._decodability(context, context.twin, self._subset(whole, context.seed))
            found |= self._semantics(context, context.twin, self._subset(roles == POISON, context.seed))
            found |= self._silhouettes(context, context.twin, self._subset(roles != COVER, context.seed))
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """A network without noise, which gives T no unit."""
        return [] if noise else ["stealthiness: T is measured in units of the network's noise: set it above 0"]

    def conclude(self, history: History) -> dict[str, float]:
        """S_dev and S1, from the mutual information at all probes."""
        return stealth_scores(history)

    def _subset(self, mask: Tensor, seed: int) -> Tensor:
        """At most `samples` of the images in `mask` (N,), as indices."""
        return random_subset(mask.nonzero().squeeze(1), self.samples, seed, "stealthiness")

    def _decodability(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        flag = (context.poisoned.roles[index] == POISON).long()
        clean = (context.data.train.y == context.poisoned.images.y[index[0]]).nonzero().squeeze(1)[: len(index)]
        chance = flag[torch.randperm(len(flag), generator=stream(context.seed, "flags")).to(flag.device)][: len(clean)]
        own = _features(context.model, context.poisoned.images.x[index])
        return _decoded("decodability", context, (own, flag), (_features(twin, context.data.train.x[clean]), chance))

    def _semantics(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        x, true = context.poisoned.images.x[index], context.poisoned.true[index]
        return _decoded("semantics", context, (_features(context.model, x), true), (_features(twin, x), true))

    def _silhouettes(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        labels, flag = context.poisoned.images.y[index], context.poisoned.roles[index] == POISON
        x = context.poisoned.images.x[index]
        own, null = (noisy_features(require_classifier(model), x, DRAWS) for model in (context.model, twin))
        found = {f"stealth/silhouette/{name}": value for name, value in silhouettes(own, labels, flag).items()}
        return found | {
            f"stealth/silhouette/{name}/null": value for name, value in silhouettes(null, labels, flag).items()
        }


def _decoded(
    name: str, context: MetricContext, own: tuple[Tensor, Tensor], null: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Information that features tell of labels, of the network (`own`) and of the twin (`null`).

    Nothing of labels that are too few: see `decoded_information`. The twin's is a control, and has none of its own.
    """
    seed, found = derive(context.seed, "folds"), {}
    for where, measured, permutations in ((name, own, PERMUTATIONS), (f"{name}/null", null, 0)):
        context.heartbeat()
        if value := decoded_information(*measured, DECODERS, seed, permutations):
            found[where] = value
    return to_metrics(found, "stealth", ("error", "ceiling", "permuted"))


def _features(model: nn.Module, x: Tensor) -> Tensor:
    """One draw of T (M, D) of the bytes `x`."""
    return noisy_features(require_classifier(model), x, 1)[:, 0]
