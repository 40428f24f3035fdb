"""Stealthiness in T, the pooled last block: can the backdoor be told from its target class, and does it keep meaning?

Measured at the last epoch; what needs several epochs, S_dev and S1, is in `information/journal.py`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from raybd.metrics.base import History, Metric
from raybd.metrics.information.decode import decodable
from raybd.metrics.information.estimate import named
from raybd.metrics.information.groups import FEWEST, target_of
from raybd.metrics.information.history import stealth
from raybd.metrics.information.passes import classifier, noisy
from raybd.metrics.information.silhouette import silhouettes
from raybd.seeds import derive, forked_rng, stream
from raybd.types import COVER, POISON, Data, MetricContext

DECODERS = ("logistic", "stiff", "neighbours")
DRAWS = 4  # noise draws of an image, of which the first is decoded


@dataclass(frozen=True, kw_only=True)
class Stealthiness(Metric):
    """S2 and silhouettes, each with its null: what the same measurement says of the clean twin.

    stealth/decodability: I(B;T | label = target), B saying whether an image is poisoned; 0: not to be told apart. At
    most H(B | label = target). null: as many images of the twin's target class, flagged at random.
    stealth/semantics: I(S;T | B = 1), S being the true class; at most H(S). null: the same images without trigger in
    the twin, which is what there is to keep.
    stealth/silhouette/...: of T in units of its noise; see `silhouette.py`.
    stealth/count/...: images; of fewer than 32 poisoned ones, or of clean ones of the target, nothing is said.
    """

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True

    samples: int = 512  # images of the target class, and of the backdoor, at most

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """stealth/... as above; of an attack with several targets nothing but the count."""
        roles, target = context.poisoned.roles, target_of(context.poisoned)
        whole = (context.poisoned.images.y == (-1 if target is None else target)) & (roles != COVER)
        poison, clean = int((roles == POISON).sum()), int((whole & (roles != POISON)).sum())
        found: dict[str, float | Tensor] = {
            "stealth/count/backdoor": float(poison),
            "stealth/count/target_clean": clean,
        }
        if target is None or min(poison, clean) < FEWEST or context.twin is None:
            return found
        with forked_rng(context.seed, "stealthiness", context.epoch, device=roles.device):
            found |= self._decodability(context, context.twin, self._some(whole, context.seed))
            found |= self._semantics(context, context.twin, self._some(roles == POISON, context.seed))
            found |= self._silhouettes(context, context.twin, self._some(roles != COVER, context.seed))
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """A network without noise, which gives T no unit."""
        return [] if noise else ["stealthiness: T is measured in units of the network's noise: set it above 0"]

    def conclude(self, history: History) -> dict[str, float]:
        """S_dev and S1, from the mutual information at all probes."""
        return stealth(history)

    def _some(self, mask: Tensor, seed: int) -> Tensor:
        """At most `samples` of the images in `mask` (N,), as indices."""
        index = mask.nonzero().squeeze(1)
        order = torch.randperm(len(index), generator=stream(seed, "stealthiness"))[: self.samples]
        return index[order.to(index.device)]

    def _decodability(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        flag = (context.poisoned.roles[index] == POISON).long()
        clean = (context.data.train.y == context.poisoned.images.y[index[0]]).nonzero().squeeze(1)[: len(index)]
        chance = flag[torch.randperm(len(flag), generator=stream(context.seed, "flags")).to(flag.device)][: len(clean)]
        seed = derive(context.seed, "folds")
        parts = {
            "decodability": decodable(
                self._draws(context.model, context.poisoned.images.x[index]), flag, DECODERS, seed
            ),
            "decodability/null": decodable(self._draws(twin, context.data.train.x[clean]), chance, DECODERS, seed),
        }
        return named(parts, "stealth", ("error", "ceiling"))

    def _semantics(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        true, seed = context.poisoned.true[index], derive(context.seed, "folds")
        parts = {
            "semantics": decodable(self._draws(context.model, context.poisoned.images.x[index]), true, DECODERS, seed),
            "semantics/null": decodable(self._draws(twin, context.data.train.x[index]), true, DECODERS, seed),
        }
        return named(parts, "stealth", ("error", "ceiling"))

    def _silhouettes(self, context: MetricContext, twin: nn.Module, index: Tensor) -> dict[str, float]:
        labels, flag = context.poisoned.images.y[index], context.poisoned.roles[index] == POISON
        own = noisy(classifier(context.model), context.poisoned.images.x[index], DRAWS)
        null = noisy(classifier(twin), context.data.train.x[index], DRAWS)
        found = {f"stealth/silhouette/{name}": value for name, value in silhouettes(own, labels, flag).items()}
        return found | {
            f"stealth/silhouette/{name}/null": value for name, value in silhouettes(null, labels, flag).items()
        }

    def _draws(self, model: nn.Module, x: Tensor) -> Tensor:
        """One draw of T (M, D) of the bytes `x`."""
        return noisy(classifier(model), x, 1)[:, 0]
