"""What a defender sees of a training: labels as given, the network, patches of one's own; no trigger, no roles.

Each number looks for one trace of a backdoor: a direction in which the features of a class fall apart (Tran, Li and
Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018), losses that fall faster than others (Li et al.,
"Anti-Backdoor Learning", NeurIPS 2021), and patches or noise that many images follow to one class.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.metrics.base import Metric, measured_only
from raybd.metrics.information.noisy_features import noiseless_features, require_classifier
from raybd.metrics.subset import random_images
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.seeds import stream
from raybd.types import Data, MetricContext
from raybd.utils.constraints import violations

FEWEST = 10  # images of a class whose spectrum is looked at


@dataclass(frozen=True, kw_only=True)
class Defender(Metric):
    """Spectra of features by class, the spread of losses, and what patches and noise of one's own do.

    All without the noise inside the network. defender/spectrum/share and /bimodality: the largest over classes less the
    median (`class_spectra`). defender/loss/...: `loss_spread`. defender/patches/...: `patch_flips`.
    defender/noise/entropy: of the classes given to images of uniform noise, in nats, at most log K.
    """

    samples: Annotated[int, Ge(FEWEST)] = 1000  # training images, at most
    points: Annotated[int, Ge(1)] = 100  # test images that get patches, at most; images of noise
    patches: Annotated[int, Ge(1)] = 8
    patch_side: Annotated[float, Interval(gt=0, le=1)] = 0.3  # of a patch, as a share of the image's

    needs_features: ClassVar[bool] = True

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range."""
        return violations(self, "defender: ")

    @torch.no_grad()
    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """The numbers above; absent where no class has images enough."""
        model = require_classifier(context.model)
        images = random_images(context.poisoned.images, self.samples, context.seed, "defender", "images")
        features = noiseless_features(model, images.x)
        clean = random_images(context.data.test, self.points, context.seed, "defender", "points").x
        with without_noise():
            found = class_spectra(features, images.y) | loss_spread(model.classify(features).float(), images.y)
        found |= patch_flips(*self._patched(model, clean, context), len(context.data.classes))
        found |= {"noise/entropy": self._noise_entropy(model, clean, context)}
        return {f"defender/{name}": value for name, value in measured_only(found).items()}

    def _patched(self, model: Classifier, x: Tensor, context: MetricContext) -> tuple[Tensor, Tensor]:
        """The classes (N,) of images, and (patches, N) of the same with each patch: random pixels at a random place."""
        rng, side = stream(context.seed, "defender", "patches"), x.shape[-2:]
        high, wide = (max(1, round(self.patch_side * n)) for n in side)
        classes = []
        for _ in range(self.patches):
            top, left = (
                int(torch.randint(n - s + 1, (), generator=rng)) for n, s in zip(side, (high, wide), strict=True)
            )
            patch = torch.randint(256, (x.shape[1], high, wide), generator=rng, dtype=torch.uint8)
            stamped = x.clone()
            stamped[:, :, top : top + high, left : left + wide] = patch.to(x.device)
            classes.append(_classes(model, stamped))
        return _classes(model, x), torch.stack(classes)

    def _noise_entropy(self, model: Classifier, like: Tensor, context: MetricContext) -> float:
        rng = stream(context.seed, "defender", "noise")
        noise = torch.randint(256, (self.points, *like.shape[1:]), generator=rng, dtype=torch.uint8).to(like.device)
        shares = torch.bincount(_classes(model, noise)).double() / len(noise)
        return float(-torch.xlogy(shares, shares).sum())


def class_spectra(features: Tensor, labels: Tensor) -> dict[str, float]:
    """How far the class falls apart that does so most, less the median class; of features (N, D) and labels (N,).

    spectrum/share: variance along the first principal axis over all variance, in [0, 1]. spectrum/bimodality: of the
    images along that axis, (skewness^2 + 1) / kurtosis, 5/9 of a uniform law, 1 of two points (Pearson 1916). NaN where
    no class has `FEWEST` images.
    """
    parts = [features[labels == label].double() for label in labels.unique()]
    found = torch.tensor([_spectrum(part) for part in parts if len(part) >= FEWEST], dtype=torch.float64)
    if not len(found):
        return {"spectrum/share": float("nan"), "spectrum/bimodality": float("nan")}
    excess = (found.amax(0) - found.quantile(0.5, dim=0)).tolist()
    return dict(zip(("spectrum/share", "spectrum/bimodality"), excess, strict=True))


def _spectrum(features: Tensor) -> tuple[float, float]:
    """The share of the first axis, and the bimodality along it, of features (N, D) of one class; 0 where all agree."""
    centred = features - features.mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    if not float(sizes[0]):
        return 0.0, 0.0
    along = centred @ axes[0]
    second, third, fourth = ((along**power).mean() for power in (2, 3, 4))
    share = sizes[0] ** 2 / (sizes**2).sum()
    return float(share), float((third**2 / second**3 + 1) / (fourth / second**2))


def loss_spread(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Cross-entropies in nats of images (N, K) under their given labels (N,): how uneven they are.

    loss/deviation: over images. loss/least_class: the least mean of a class less the mean over classes.
    """
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    means = torch.stack([losses[labels == label].mean() for label in labels.unique()])
    return {
        "loss/deviation": float(losses.std(correction=0)),
        "loss/least_class": float(means.min() - means.mean()),
    }


def patch_flips(classes: Tensor, patched: Tensor, number: int) -> dict[str, float]:
    """What patches do to classes (N,), which become `patched` (P, N), of `number` classes; shares in [0, 1].

    patches/flips: images whose class changes, over all patches. patches/largest: of one patch, those that go over to
    one class, the largest of all patches and classes.
    """
    changed = patched != classes
    counts = torch.stack([((patched == label) & changed).sum(1) for label in range(number)])
    return {
        "patches/flips": float(changed.double().mean()),
        "patches/largest": int(counts.max()) / len(classes),
    }


def _classes(model: Classifier, x: Tensor) -> Tensor:
    """The class (N,) of the bytes `x` (N, C, H, W), without noise inside the network."""
    features = noiseless_features(model, x)
    with without_noise():
        return model.classify(features).argmax(1)
