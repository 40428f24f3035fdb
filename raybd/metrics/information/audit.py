"""Trained critics beside the estimates that need none: what the paper's kind of estimator says of the same draws."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from raybd.metrics.information.critics import Critics, Pairs, Training, evaluate, fit
from raybd.metrics.information.estimate import Estimate
from raybd.metrics.information.paper import TY, XT, PaperSettings, paper_mode
from raybd.models import Classifier

COLD, WARM = 600, 300  # steps of a critic that starts from nothing, and from the last probe's


@dataclass
class Followed:
    """The critics of one network so far."""

    critics: dict[str, Critics]
    probes: int = 0


_followed: WeakKeyDictionary[nn.Module, Followed] = WeakKeyDictionary()


def trained(
    model: nn.Module, pairs: dict[str, Pairs], fresh: dict[str, Pairs], names: list[str], seed: int, check: bool
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Trained InfoNCE of the kinds in `pairs` (xt, ty), one critic a group, on draws `fresh` that it has not seen.

    Critics go on from those that the same network had at its last probe; with `check`, and at its fourth, they are
    compared with critics trained from nothing, whose values come second.
    """
    found: dict[str, Estimate] = {}
    control: dict[str, Estimate] = {}
    state = _followed.setdefault(model, Followed({}))
    state.probes += 1
    for kind, train in pairs.items():
        warm = kind in state.critics
        critics = state.critics.setdefault(kind, Critics(train, names, seed))
        values = _fitted(critics, train, fresh[kind], WARM if warm else COLD)
        found |= {f"{kind}/{name}": value for name, value in zip(names, values, strict=True)}
        if warm and (check or state.probes == 4):
            cold = _fitted(Critics(train, names, seed), train, fresh[kind], COLD)
            control |= {f"{kind}/{name}": value for name, value in zip(names, cold, strict=True)}
    return found, control


@torch.no_grad()
def pairs_of(
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


def _fitted(critics: Critics, train: Pairs, fresh: Pairs, steps: int) -> list[Estimate]:
    fit(critics, train, Training(steps=steps))
    return [replace(value, steps=steps) for value in evaluate(critics, fresh)]


def as_published(
    model: Classifier, x: Tensor, members: dict[str, Tensor], seed: int, heartbeat: Callable[[], None] = lambda: None
) -> dict[str, Estimate]:
    """`paper_mode` of every group on the bytes `x` (M, C, H, W), with its ceilings: hours on a CPU.

    `heartbeat` is called at every batch.
    """
    found = {}
    for name, rows in members.items():
        images = x[rows.to(x.device)].float().div_(255)
        for kind, recipe in (("xt", XT), ("ty", TY)):
            found[f"{kind}/{name}"] = _published(model, images, kind, recipe, seed, heartbeat)
    return found


def _published(
    model: Classifier, images: Tensor, kind: str, recipe: PaperSettings, seed: int, heartbeat: Callable[[], None]
) -> Estimate:
    def sample(index: Tensor) -> tuple[Tensor, Tensor]:
        heartbeat()
        return SAMPLES[kind](model, images[index.to(images.device)])

    return paper_mode(sample, len(images), recipe, seed)


@torch.no_grad()
def features_and_image(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """(T, X) of one noisy pass, X being the flat image in [0, 1]."""
    return model.features(model.normalise(x)), x.flatten(1)


@torch.no_grad()
def logits_and_features(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """(Y_pred, T) of one noisy pass, T being free of the noise that the head adds."""
    features = model.features(model.normalise(x))
    return model.classify(features), features


SAMPLES: dict[str, Callable[[Classifier, Tensor], tuple[Tensor, Tensor]]] = {
    "xt": features_and_image,
    "ty": logits_and_features,
}
