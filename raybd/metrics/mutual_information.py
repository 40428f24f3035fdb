"""Mutual-information signatures: I(X;T) and I(T;Y_pred) of the backdoor, of the target class and of clean classes.

X is the image, uniform on N images of a group; T the pooled last block; Y_pred the logits. All in nats, and all of
networks with noise inside: without it I(X;T) is infinite (arXiv:2511.21923; Goldfeld et al., arXiv:1810.05728).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from raybd.metrics.base import Arrays, History, Metric
from raybd.metrics.information.bounds import to_metrics
from raybd.metrics.information.group_estimates import GroupedImages, group_estimates, group_metrics
from raybd.metrics.information.groups import MIN_IMAGES, ImageGroups, choose_groups
from raybd.metrics.information.noisy_features import FRESH_DRAWS, noisy_features, require_classifier
from raybd.metrics.information.resolved_groups import resolved_metrics
from raybd.metrics.information.trained_critics import feature_pairs, published_estimates, train_critics
from raybd.metrics.information.trigger_pairs import trigger_pairs
from raybd.seeds import forked_rng
from raybd.types import POISON, Data, MetricContext
from raybd.utils.constraints import violations
from raybd.utils.metric_names import FRESH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALONE = ("backdoor", "target", "target_mix")  # groups whose poisoned images are measured as a pair, at a resolution
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
    needs_features: ClassVar[bool] = True

    samples: Annotated[int, Ge(MIN_IMAGES)] = 64  # images of a group, at most
    passes: Annotated[int, Ge(2)] = 32  # noise draws of each from which the critic is made
    classes: Annotated[int, Ge(1)] = 4  # clean classes that are looked at
    epochs: tuple[int, ...] = ()  # probes at which to look, besides the last; (): at every one
    trained: bool = False  # mi/trained/...: critics of all groups trained together (critics.py)
    paper: bool = False  # mi/paper/...: the authors' estimator as it is (sampled_infonce.py), at hours a probe on a CPU

    def problems(self, data: Data, noise: float) -> list[str]:
        """Noise 0, and numbers too small."""
        return ([] if noise else [NO_NOISE]) + violations(self, "mutual_information: ")

    def measurements(self, probes: Collection[int], epochs: int) -> int:
        """Those at the probes that it looks at, and at the last epoch."""
        return super().measurements(set(probes) & set(self.epochs) if self.epochs else probes, epochs)

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """mi/... as above, and mi/map, what there is to draw: see `_projection`."""
        if self.epochs and context.epoch not in self.epochs and not context.last:
            return {}
        groups = choose_groups(context.poisoned, self.samples, self.classes, context.seed)
        found: dict[str, float | Tensor] = {f"mi/count/{name}": float(n) for name, n in groups.counts.items()}
        pairs = trigger_pairs(context, self.samples)
        index = groups.index.to(context.poisoned.images.x.device)
        x = context.poisoned.images.x[index]
        unmixed = {name: x[rows.to(x.device)] for name, rows in groups.rows.items() if name not in ALONE}
        found |= resolved_metrics(context, pairs, self.passes, unmixed)
        if fresh := pairs.get(FRESH):
            found |= self._with_twin(context, GroupedImages.of_pair(fresh))[0]
        if not groups.size:
            return found
        images = GroupedImages(x, context.poisoned.true[index], groups.rows)
        numbers, drawn = self._with_twin(context, images)
        found |= numbers
        found |= {"mi/samples": float(groups.size), "mi/map": _projection(drawn, context, index)}
        return found | (self._trained_estimates(context, groups) if self.trained or self.paper else {})

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """The information plane, both quantities over the epochs, and T itself."""
        # matplotlib is slow to import, and only drawing needs it
        from raybd.metrics.information import figures
        from raybd.metrics.information.resolution_figures import resolution_curves

        resolution = resolution_curves(history, title)
        found = {} if resolution is None else {"resolution": resolution}
        if not any("mi/samples" in entry["metrics"] for entry in history):
            return found
        return found | {
            "information_plane": figures.information_plane(history, title),
            "information": figures.information_curves(history, title),
            "features": figures.feature_maps(arrays, title),
        }

    def _with_twin(self, context: MetricContext, images: GroupedImages) -> tuple[dict[str, float], Tensor]:
        """The estimates of the network and of its twin, where that is another, and one draw of the network's T."""
        context.heartbeat()
        how = self.passes, context.seed, context.epoch
        own, drawn = group_estimates(context.model, images, *how)
        found = group_metrics(own, "mi") | {"mi/noise_ratio": next(iter(own.values())).noise_ratio}
        if context.twin is not None and context.twin is not context.model:
            found |= group_metrics(group_estimates(context.twin, images, *how)[0], "mi/control")
        return found, drawn

    def _trained_estimates(self, context: MetricContext, groups: ImageGroups) -> dict[str, float | Tensor]:
        """The estimates that are trained, of the trial's own network."""
        model, device = require_classifier(context.model), context.poisoned.images.x.device
        x, table = context.poisoned.images.x[groups.index.to(device)], groups.table.to(device)
        found: dict[str, float | Tensor] = {}
        with forked_rng(context.seed, "audit", context.epoch, device=device):
            if self.trained:
                features = noisy_features(model, x, self.passes + FRESH_DRAWS)
                train, fresh = feature_pairs(model, x, features, table, self.passes)
                values = train_critics(train, fresh, list(groups.rows), context.seed)
                found |= to_metrics(values, "mi/trained")
            if self.paper:
                found |= to_metrics(
                    published_estimates(model, x, groups.rows, context.seed, context.heartbeat), "mi/paper"
                )
        return found


def _projection(whitened: Tensor, context: MetricContext, index: Tensor) -> Tensor:
    """(M, 4): one draw of T along its two widest axes, the label in training, and 1 for the backdoor's images.

    `whitened` is (M, K): in units of the noise, so that distances mean the same at every epoch.
    """
    apart = whitened - whitened.mean(0)
    axes = torch.linalg.eigh(apart.T @ apart)[1][:, -2:].flip(1)
    axes = axes * axes.sum(0).sign()  # which way an axis points is arbitrary, and should not change between epochs
    marks = [context.poisoned.images.y[index], context.poisoned.roles[index] == POISON]
    return torch.cat([apart @ axes, torch.stack(marks, 1).float()], 1)
