"""I(X;T), I(T;Y_pred) and I(S;T) of groups of images in one network, all from the same passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from raybd.metrics.information.bounds import MIEstimate, to_metrics
from raybd.metrics.information.gaussian_channel import channel_estimates, whitened_channel
from raybd.metrics.information.noisy_features import FRESH_DRAWS, noiseless_features, noisy_features, require_classifier
from raybd.metrics.information.plug_in_estimator import noise_ratio, plug_in_estimates, plug_in_scores, whitened_axes
from raybd.metrics.information.source_information import source_information
from raybd.metrics.information.trigger_pairs import PLAIN, TriggerPair
from raybd.seeds import forked_rng
from raybd.utils.metric_names import FRESH

MIXED = ("backdoor", "random", FRESH, PLAIN)  # groups of several true classes


@dataclass(frozen=True)
class GroupedImages:
    """M images as bytes (M, C, H, W), their true classes (M,), and the groups of N that they make up."""

    x: Tensor
    true: Tensor
    rows: dict[str, Tensor]  # group: (N,) positions among the images

    @classmethod
    def of_pair(cls, pair: TriggerPair) -> "GroupedImages":
        """The fresh images with the trigger and without it, as two groups."""
        n = len(pair.true)
        rows = {FRESH: torch.arange(n), PLAIN: torch.arange(n, 2 * n)}
        return cls(torch.cat([pair.triggered, pair.plain]), pair.true.repeat(2), rows)


@torch.no_grad()
def group_estimates(
    network: nn.Module, images: GroupedImages, passes: int, seed: int, epoch: int
) -> tuple[dict[str, MIEstimate], Tensor]:
    """Every estimate of `network`, as KIND/GROUP, and one draw of T in units of its noise, (M, K).

    Each network draws the same noise, so that what differs between two is not chance.
    """
    model, table = require_classifier(network), torch.stack(list(images.rows.values())).to(images.x.device)
    with forked_rng(seed, "information", epoch, device=images.x.device):
        features = noisy_features(model, images.x, passes + FRESH_DRAWS)
        noiseless = noiseless_features(model, images.x)
        logits = model.classify(features[:, passes:])
    axes = whitened_axes(features[:, :passes].unflatten(0, (-1, table.shape[1])))
    whitened = features @ axes.T
    draws, fresh = whitened[table].split([passes, FRESH_DRAWS], 2)
    scores = plug_in_scores(draws, fresh, (noiseless @ axes.T)[table])
    channel = whitened_channel(features[:, passes:], logits, model.head, model.noise)
    kinds = {"xt": plug_in_estimates(scores), "ty": channel_estimates(*(part[table] for part in channel))}
    ratios = dict(zip(images.rows, noise_ratio(features[table, :passes]).tolist(), strict=True))
    found = {
        f"{kind}/{name}": replace(value, noise_ratio=ratios[name])
        for kind, values in kinds.items()
        for name, value in zip(images.rows, values, strict=True)
    }
    labels = dict(zip(images.rows, images.true[table], strict=True))
    return found | _class_information(dict(zip(images.rows, scores, strict=True)), labels, seed), whitened[:, -1]


def group_metrics(estimates: Mapping[str, MIEstimate], prefix: str) -> dict[str, float]:
    """The numbers of `group_estimates`. I(S;T) near its ceiling H(S) is no bound of more: it has no /saturated."""
    on_classes = {name: value for name, value in estimates.items() if name.startswith("st/")}
    others = {name: value for name, value in estimates.items() if name not in on_classes}
    return to_metrics(others, prefix) | to_metrics(on_classes, prefix, ("error", "ceiling", "permuted"))


def _class_information(scores: dict[str, Tensor], labels: dict[str, Tensor], seed: int) -> dict[str, MIEstimate]:
    """I(S;T) of the groups of several classes that have several."""
    values = {name: source_information(scores[name], labels[name], seed) for name in MIXED if name in scores}
    return {f"st/{name}": value for name, value in values.items() if value is not None}
