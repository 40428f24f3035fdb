"""Estimates of mutual information by trained critics, beside those that need no training, on the same draws."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from raybd.metrics.information.bounds import MIEstimate
from raybd.metrics.information.critics import Critics, CriticTraining, Pairs, evaluate, fit
from raybd.metrics.information.sampled_infonce import TY, XT, SampledInfoNCE, sampled_infonce_estimate
from raybd.models import Classifier

STEPS = 600  # of a critic's training


def train_critics(
    pairs: dict[str, Pairs], fresh: dict[str, Pairs], names: list[str], seed: int
) -> dict[str, MIEstimate]:
    """InfoNCE estimates of the kinds in `pairs` (xt, ty) by one trained critic a group, on unseen draws `fresh`.

    Every probe trains its critics from nothing: those of an earlier probe would have to be kept with the trial's
    checkpoint, and what they lag behind the network looks like compression. `seed` decides weights and batches.
    """
    found: dict[str, MIEstimate] = {}
    for kind, train in pairs.items():
        critics = Critics(train, names, seed)
        fit(critics, train, CriticTraining(steps=STEPS))
        values = [replace(value, steps=STEPS) for value in evaluate(critics, fresh[kind])]
        found |= {f"{kind}/{name}": value for name, value in zip(names, values, strict=True)}
    return found


@torch.no_grad()
def feature_pairs(
    model: Classifier, x: Tensor, features: Tensor, table: Tensor, passes: int
) -> tuple[dict[str, Pairs], dict[str, Pairs]]:
    """Pairs to train on, from the first `passes` draws of `features` (M, R, D), and fresh ones from the others.

    (T, X) for xt and (Y_pred, T) for ty, X being the flat image in [0, 1]; `table` (G, N) says which images of `x`
    (M, C, H, W) make up a group.
    """
    logits, images = model.classify(features), x.flatten(1).float().div_(255)[:, None]
    parts = [slice(None, passes), slice(passes, None)]
    t, y, flat = features[table], logits[table], images[table]
    train, fresh = ({"xt": Pairs(t[:, :, part], flat), "ty": Pairs(y[:, :, part], t[:, :, part])} for part in parts)
    return train, fresh


def published_estimates(
    model: Classifier, x: Tensor, groups: dict[str, Tensor], seed: int, heartbeat: Callable[[], None] = lambda: None
) -> dict[str, MIEstimate]:
    """`sampled_infonce_estimate` of every group on the bytes `x` (M, C, H, W), with its ceilings: hours on a CPU.

    `heartbeat` is called at every batch.
    """
    found = {}
    for name, rows in groups.items():
        images = x[rows.to(x.device)].float().div_(255)
        for kind, settings in (("xt", XT), ("ty", TY)):
            found[f"{kind}/{name}"] = _published_estimate(model, images, kind, settings, seed, heartbeat)
    return found


def _published_estimate(
    model: Classifier, images: Tensor, kind: str, settings: SampledInfoNCE, seed: int, heartbeat: Callable[[], None]
) -> MIEstimate:
    def sample(index: Tensor) -> tuple[Tensor, Tensor]:
        heartbeat()
        return PAIR_SAMPLERS[kind](model, images[index.to(images.device)])

    return sampled_infonce_estimate(sample, len(images), settings, seed)


@torch.no_grad()
def features_and_image(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """(T, X) of one noisy pass, X being the flat image in [0, 1]."""
    return model.features(model.normalise(x)), x.flatten(1)


@torch.no_grad()
def logits_and_features(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """(Y_pred, T) of one noisy pass, T being free of the noise that the head adds."""
    features = model.features(model.normalise(x))
    return model.classify(features), features


PAIR_SAMPLERS: dict[str, Callable[[Classifier, Tensor], tuple[Tensor, Tensor]]] = {
    "xt": features_and_image,
    "ty": logits_and_features,
}
