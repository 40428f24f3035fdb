"""What the detectors of an audit share: a network trained on the images, and features learnt without labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raybd.auditing.probing import reduced
from raybd.auditing.settings import AuditSettings
from raybd.data.describe import mean_std
from raybd.defences import TrainingContext
from raybd.models import Classifier, build_model, feature_problem
from raybd.models.base import require
from raybd.pretraining import PretrainConfig, embed, pretrain
from raybd.pretraining.linear_probe import fit_linear
from raybd.seeds import forked_rng, stream
from raybd.training import fit
from raybd.types import Images

Floats = NDArray[np.float64]
Heartbeat = Callable[[], None]
FOLDS = 5
SIDE = 28  # pixels of an image's shorter side, to which larger ones are reduced for their components
FLAT = 1e-9  # of the largest variance: directions below it hold nothing
PENALTY = 0.03  # of the linear head that says which label an image should have
COMPONENTS = 30  # of the pixels, beside the encoder's features: the first few hold content, a small patch is in none


@dataclass(frozen=True)
class AuditFeatures:
    """Suspected images with what was learnt from them, once for all detectors."""

    images: Images
    classes: int
    seed: int
    network: Classifier  # trained on the images with their labels, in evaluation mode
    context: TrainingContext  # of that training, as filters among the defences take it
    v: Tensor  # (N, D) float32: of an encoder that was trained without the labels
    expected: Tensor  # (N, K) float64: probability of each label by the content, told by the other folds' images

    @property
    def own(self) -> Tensor:
        """(N,) float64: the expected probability of the label that an image has."""
        return self.expected.gather(1, self.images.y[:, None])[:, 0]


def learn_features(images: Images, classes: int, settings: AuditSettings, heartbeat: Heartbeat) -> AuditFeatures:
    """Train the network and the encoder on `images`, whose labels may be wrong, and expect labels from the encoder."""
    network, config = _network(images, classes, settings, "network"), settings.training
    for _ in fit(network, images, config, settings.seed):
        heartbeat()
    context = TrainingContext(
        model=network, images=images, classes=classes, train_config=config, seed=settings.seed, heartbeat=heartbeat
    )
    encoder = _network(images, classes, settings, "encoder")
    pretrain(encoder, images.x, PretrainConfig(epochs=settings.pretrain_epochs), settings.seed, heartbeat=heartbeat)
    v = embed(encoder, images.x, heartbeat)
    content = torch.cat([v, components(images.x)], 1)
    expected = expected_labels(content, images.y, classes, settings.seed, heartbeat)
    return AuditFeatures(images, classes, settings.seed, network.eval(), context, v, expected)


def components(x: Tensor, count: int = COMPONENTS) -> Tensor:
    """The first principal components of the bytes `x` (N, C, H, W), each of mean 0 and variance 1: (N, `count` or
    fewer), found in images of at most `SIDE` pixels by their covariance."""
    rows = reduced(x, SIDE).flatten(1).double()
    rows = rows - rows.mean(0)
    variance, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    held = (variance > FLAT * variance.max().clamp_min(FLAT)).nonzero()[:, 0].flip(0)[:count]
    found: Tensor = (rows @ axes[:, held] / variance[held].sqrt()).float()
    return found


def expected_labels(v: Tensor, y: Tensor, classes: int, seed: int, heartbeat: Heartbeat = lambda: None) -> Tensor:
    """p(y|v) (N, K) float64 of features `v` (N, D): logistic regression on the images of the other folds.

    No image has a say in what its own label should be.
    """
    fold = torch.randperm(len(y), generator=stream(seed, "folds")) % FOLDS
    expected = torch.zeros(len(y), classes, dtype=torch.float64)
    for number in range(FOLDS):
        held = fold == number
        weight, bias = fit_linear(v[~held], y[~held], classes, PENALTY, heartbeat)
        expected[held] = torch.addmm(bias, v[held], weight.T).double().softmax(1)
    return expected


def _network(images: Images, classes: int, settings: AuditSettings, purpose: str) -> Classifier:
    """An untrained network for `images`. Raises InputError where it does not tell its features."""
    mean, std = mean_std(images.x)
    with forked_rng(settings.seed, "audit", purpose, device=images.x.device):
        model = build_model(settings.model, images.shape, classes, mean, std, width=settings.width)
    require((isinstance(model, Classifier), f"an audit needs features: {feature_problem(model)}"))
    return cast(Classifier, model)
