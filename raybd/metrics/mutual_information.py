"""Mutual-information signatures: I(X;T) and I(T;Y_pred) of the backdoor, of the target class and of clean classes.

X is the image, uniform on N images of a group; T the pooled last block; Y_pred the logits. All in nats, and all of
networks with noise inside: without it I(X;T) is infinite (arXiv:2511.21923; Goldfeld et al., arXiv:1810.05728).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.metrics.base import Arrays, History, Metric
from raybd.metrics.information.bounds import MIEstimate, to_metrics
from raybd.metrics.information.gaussian_channel import channel_estimates, whitened_channel
from raybd.metrics.information.groups import MIN_IMAGES, ImageGroups, choose_groups
from raybd.metrics.information.noisy_features import noiseless_features, noisy_features, require_classifier
from raybd.metrics.information.plug_in_estimator import (
    noise_ratio,
    plug_in_estimates,
    plug_in_scores,
    whitened_axes,
)
from raybd.metrics.information.resolved_groups import resolved_metrics
from raybd.metrics.information.source_information import source_information
from raybd.metrics.information.trained_critics import feature_pairs, published_estimates, train_critics
from raybd.seeds import forked_rng
from raybd.types import POISON, Data, MetricContext
from raybd.utils.constraints import violations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRESH = 4  # draws of each image on which a critic is evaluated
MIXED = ("backdoor", "random")  # groups of several true classes
NO_NOISE = (
    "mutual_information: I(X;T) is infinite in a network without noise, where T is a function of the image, and an "
    "estimate of it would say log N and no more; set the model's noise above 0 (the paper's is 0.4)"
)


@dataclass(frozen=True, kw_only=True)
class MutualInformation(Metric):
    """Signatures with their bounds, ceilings and controls.

    mi/xt/GROUP is a lower bound (`plug_in_estimator.py`). mi/ty/GROUP/lower and /upper are two bounds, mi/ty/GROUP
    their middle where they are near enough, and else absent (`gaussian_channel.py`). mi/st/GROUP is information on the
    true class (`source_information.py`), mi/st/GROUP/permuted the same of labels in random order. Groups: `groups.py`.
    mi/xt_own/..., mi/xt_iso/... and mi/signature... are information at a resolution, which does not saturate:
    `resolved_groups.py`. mi/control/... are the same images in the clean twin, trigger and all. mi/count/GROUP counts
    the images that there are: one of fewer than 32 has no other number.
    """

    needs_twin: ClassVar[bool] = True

    samples: Annotated[int, Ge(MIN_IMAGES)] = 64  # images of a group, at most
    passes: Annotated[int, Ge(2)] = 32  # noise draws of each from which the critic is made
    classes: Annotated[int, Ge(1)] = 4  # clean classes that are looked at
    epochs: tuple[int, ...] = ()  # probes at which to look, besides the last; (): at every one
    trained: bool = False  # mi/trained/...: critics of all groups trained together (critics.py)
    paper: bool = False  # mi/paper/...: the authors' estimator as it is (sampled_infonce.py), at hours a probe on a CPU

    def problems(self, data: Data, noise: float) -> list[str]:
        """Noise 0, and numbers too small."""
        return ([] if noise else [NO_NOISE]) + violations(self, "mutual_information: ")

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """mi/... as above, and mi/map, what there is to draw: see `_projection`."""
        if self.epochs and context.epoch not in self.epochs and not context.last:
            return {}
        groups = choose_groups(context.poisoned, self.samples, self.classes, context.seed)
        found: dict[str, float | Tensor] = {f"mi/count/{name}": float(n) for name, n in groups.counts.items()}
        found |= resolved_metrics(context, self.samples, self.passes)
        if not groups.size:
            return found
        found |= {"mi/samples": float(groups.size)} | self._with_control(context, groups)
        return found | (self._trained_estimates(context, groups) if self.trained or self.paper else {})

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """The information plane, both quantities over the epochs, and T itself."""
        from raybd.metrics.information import figures  # matplotlib is slow to import, and only drawing needs it

        if not any("mi/samples" in entry["metrics"] for entry in history):
            return {}
        return {
            "information_plane": figures.information_plane(history, title),
            "information": figures.information_curves(history, title),
            "features": figures.feature_maps(arrays, title),
        }

    def _with_control(self, context: MetricContext, groups: ImageGroups) -> dict[str, float | Tensor]:
        model, drawing = self._estimates(context, context.model, context.poisoned.images.x, groups)
        found: dict[str, float | Tensor] = {"mi/noise_ratio": next(iter(model.values())).noise_ratio, "mi/map": drawing}
        found |= to_metrics(model, "mi")
        if context.twin is not None and context.twin is not context.model:
            control, _ = self._estimates(context, context.twin, context.poisoned.images.x, groups)
            found |= to_metrics(control, "mi/control")
        return found

    @torch.no_grad()
    def _estimates(
        self, context: MetricContext, network: nn.Module, x: Tensor, groups: ImageGroups
    ) -> tuple[dict[str, MIEstimate], Tensor]:
        """Every estimate of one network on the images of `x` (M, C, H, W) that `groups` names, and their map.

        Each network draws the same noise, so that what differs between two is not chance.
        """
        model, index, table = require_classifier(network), groups.index.to(x.device), groups.table.to(x.device)
        with forked_rng(context.seed, "information", context.epoch, device=x.device):
            features, noiseless = (
                noisy_features(model, x[index], self.passes + FRESH),
                noiseless_features(model, x[index]),
            )
            logits = model.classify(features[:, self.passes :])
        axes = whitened_axes(features[:, : self.passes].unflatten(0, (-1, groups.size)))
        whitened = features @ axes.T
        draws, fresh = whitened[table].split([self.passes, FRESH], 2)
        scores = plug_in_scores(draws, fresh, (noiseless @ axes.T)[table])
        channel = whitened_channel(features[:, self.passes :], logits, model.head, model.noise)
        ratios = noise_ratio(features[table, : self.passes]).tolist()
        found = _by_group("xt", groups, plug_in_estimates(scores), ratios)
        found |= _by_group("ty", groups, channel_estimates(*(part[table] for part in channel)), ratios)
        for row, name in enumerate(groups.rows):
            labels = context.poisoned.true[index[table[row]]]
            if name in MIXED and (value := source_information(scores[row], labels, context.seed)):
                found[f"st/{name}"] = value
        return found, _projection(whitened[:, -1], context, index)

    def _trained_estimates(self, context: MetricContext, groups: ImageGroups) -> dict[str, float | Tensor]:
        """The estimates that are trained, of the trial's own network."""
        model, device = require_classifier(context.model), context.poisoned.images.x.device
        x, table = context.poisoned.images.x[groups.index.to(device)], groups.table.to(device)
        found: dict[str, float | Tensor] = {}
        with forked_rng(context.seed, "audit", context.epoch, device=device):
            if self.trained:
                features = noisy_features(model, x, self.passes + FRESH)
                train, fresh = feature_pairs(model, x, features, table, self.passes)
                values = train_critics(train, fresh, list(groups.rows), context.seed)
                found |= to_metrics(values, "mi/trained")
            if self.paper:
                found |= to_metrics(
                    published_estimates(model, x, groups.rows, context.seed, context.heartbeat), "mi/paper"
                )
        return found


def _by_group(
    kind: str, groups: ImageGroups, estimates: list[MIEstimate], ratios: list[float]
) -> dict[str, MIEstimate]:
    rows = zip(groups.rows, estimates, ratios, strict=True)
    return {f"{kind}/{name}": replace(value, noise_ratio=ratio) for name, value, ratio in rows}


def _projection(whitened: Tensor, context: MetricContext, index: Tensor) -> Tensor:
    """(M, 4): one draw of T along its two widest axes, the label in training, and 1 for the backdoor's images.

    `whitened` is (M, K): in units of the noise, so that distances mean the same at every epoch.
    """
    apart = whitened - whitened.mean(0)
    axes = torch.linalg.eigh(apart.T @ apart)[1][:, -2:].flip(1)
    axes = axes * axes.sum(0).sign()  # which way an axis points is arbitrary, and should not change between epochs
    marks = [context.poisoned.images.y[index], context.poisoned.roles[index] == POISON]
    return torch.cat([apart @ axes, torch.stack(marks, 1).float()], 1)
