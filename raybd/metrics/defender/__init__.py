"""What a defender sees of a training: labels as given, the network, patches of one's own; no trigger, no roles.

Each number looks for one trace of a backdoor: a class whose features fall apart or whose images lie among those of
others, losses that fall faster than others, images that stay in their class however bright, and patches or noise that
many images follow to one class.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from raybd.metrics.base import Metric, measured_only
from raybd.metrics.defender.losses import loss_spread
from raybd.metrics.defender.neighbours import largest_less_median, neighbour_disagreement
from raybd.metrics.defender.patches import canary_success, classes_of, patch_flips, stamped
from raybd.metrics.defender.spectra import FEWEST, class_spectra
from raybd.metrics.detection.scale_up import ScaleUp, consistency
from raybd.metrics.information.noisy_features import noiseless_features, require_classifier
from raybd.metrics.subset import random_images
from raybd.models import Classifier
from raybd.models.noise import without_noise
from raybd.seeds import stream
from raybd.types import Data, Images, MetricContext
from raybd.utils.constraints import violations


@dataclass(frozen=True, kw_only=True)
class Defender(Metric):
    """Spectra of features, neighbours, losses and consistency by class, and what patches and noise of one's own do.

    All without the noise inside the network. defender/spectrum/...: `class_spectra`. defender/neighbours/features and
    /pixels: `neighbour_disagreement`. defender/loss/...: `loss_spread`. defender/consistency/largest: mean over a class
    of SCALE-UP's score, the largest less the median. defender/patches/...: `patch_flips`; /canary: `canary_success`.
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

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """The numbers above; absent where no class has images enough."""
        model, classes = require_classifier(context.model), len(context.data.classes)
        found = self.numbers(model, context.poisoned.images, context.data.test, classes, context.seed)
        return dict(found)

    @torch.no_grad()
    def numbers(self, model: Classifier, training: Images, others: Images, classes: int, seed: int) -> dict[str, float]:
        """The numbers above, of a network in evaluation mode, its training images and `others`, of which there are
        `classes`."""
        images = random_images(training, self.samples, seed, "defender", "images")
        clean = random_images(others, self.points, seed, "defender", "points").x
        found = self._of_training_images(model, images) | self._of_patches(model, clean, classes, seed)
        found["patches/canary"] = canary_success(model, images, clean, seed, self.patch_side)
        found["noise/entropy"] = self._noise_entropy(model, clean, seed)
        return {f"defender/{name}": float(value) for name, value in measured_only(found).items()}

    def _of_training_images(self, model: Classifier, images: Images) -> dict[str, float]:
        features = noiseless_features(model, images.x)
        with without_noise():
            logits = model.classify(features).float()
            scores = torch.from_numpy(consistency(model, images.x.float() / 255, ScaleUp().scales))
        return {
            **class_spectra(features, images.y),
            **loss_spread(logits, images.y),
            "neighbours/features": neighbour_disagreement(features, images.y),
            "neighbours/pixels": neighbour_disagreement(images.x.flatten(1), images.y),
            "consistency/largest": largest_less_median(scores, images.y.cpu()),
        }

    def _of_patches(self, model: Classifier, x: Tensor, classes: int, seed: int) -> dict[str, float]:
        rng = stream(seed, "defender", "patches")
        patched = [classes_of(model, stamped(x, self.patch_side, rng)) for _ in range(self.patches)]
        return patch_flips(classes_of(model, x), torch.stack(patched), classes)

    def _noise_entropy(self, model: Classifier, like: Tensor, seed: int) -> float:
        rng = stream(seed, "defender", "noise")
        noise = torch.randint(256, (self.points, *like.shape[1:]), generator=rng, dtype=torch.uint8).to(like.device)
        shares = torch.bincount(classes_of(model, noise)).double() / len(noise)
        return float(-torch.xlogy(shares, shares).sum())
