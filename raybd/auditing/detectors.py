"""The detectors of an audit by name: each gives every image a score from the same features. A new one is a line here.

Those in `DECISIVE` decide the verdict: their scores are close to zero on ordinary images, whatever classes look like.
The others tell groups and odd labels apart, poison or not: they give reasons, and order what the decisive ones leave
equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from raybd.auditing.blends import blend_scores
from raybd.auditing.features import AuditFeatures, Floats
from raybd.auditing.shared_windows import window_scores
from raybd.auditing.transplant import transplant_scores
from raybd.defences.activation_clustering import ActivationClustering
from raybd.defences.filtering import Filter
from raybd.defences.scan import Scan
from raybd.defences.spectral import Spectral
from raybd.defences.vibe import Em, EmConfig, FrozenFeatures, Heads
from raybd.defences.vibe.settings import FEW_SHARP, MANY, MANY_SHARP
from raybd.types import Images


@dataclass(frozen=True)
class Scores:
    """Scores (N,) of a detector, the higher the more suspicious, and those of a null that it makes itself."""

    scores: Floats
    null: Floats | None = None


Detector = Callable[[AuditFeatures], Scores]
DECISIVE = ("transplant", "shared_windows")
REASONS = {
    "transplant": "a window of it turns other images into its class",
    "shared_windows": "shares a window with images of its label, which look like other classes",
    "blends": "keeps its class when averaged with others",
    "vibe": "VIBE takes it for another class",
    "outlier_communities": "lies in a community that VIBE's filter takes out",
    "activation_clustering": "lies in the smaller cluster of its class",
    "spectral": "stands out along its class's first direction",
    "scan": "lies in the strange group of a class that is a mixture",
}


def detectors(clean: Images | None) -> dict[str, Detector]:
    """The detectors by name; SCAn only where there are `clean` images."""
    found: dict[str, Detector] = {
        "transplant": lambda features: Scores(transplant_scores(features)),
        "shared_windows": lambda features: Scores(*window_scores(features)),
        "blends": lambda features: Scores(blend_scores(features)),
        "vibe": lambda features: Scores(vibe_scores(features)),
        "outlier_communities": lambda features: Scores(outlier_scores(features)),
        "activation_clustering": lambda features: Scores(filter_scores(features, ActivationClustering())),
        "spectral": lambda features: Scores(filter_scores(features, Spectral())),
    }
    if clean is not None and not Scan().problems(clean.shape, int(clean.y.max()) + 1):
        found["scan"] = lambda features: Scores(filter_scores(features, Scan(), clean))
    return found


def detect(features: AuditFeatures, clean: Images | None = None) -> Mapping[str, Scores]:
    """What every detector says of the images."""
    return {name: detector(features) for name, detector in detectors(clean).items()}


def filter_scores(features: AuditFeatures, chosen: Filter, clean: Images | None = None) -> Floats:
    """(N,): what a filter among the defences finds in the features of the trained network."""
    context = replace(features.context, trusted=clean)
    found: Floats = chosen.detect(context, features.network).suspicion.double().numpy()
    return found


def vibe_scores(features: AuditFeatures) -> Floats:
    """(N,): VIBE's log odds (nats) that the latent class of an image is not its label, by the encoder's features."""
    sharp = FEW_SHARP if features.classes <= MANY else MANY_SHARP
    heads = Heads(features.classes, features.v.shape[1], "A", sharp, sharp, 0.02)
    em = Em(heads, FrozenFeatures(features.v), features.images.y, EmConfig(), features.seed)
    em.start()
    em.advance(em.config.iterations)
    with torch.no_grad():
        posterior, _ = em.posterior()
    own = posterior.gather(1, features.images.y[:, None])[:, 0].clamp(1e-12, 1 - 1e-12)
    found: Floats = (torch.log1p(-own) - own.log()).double().numpy()
    return found


def outlier_scores(features: AuditFeatures) -> Floats:
    """(N,): 1 of images in a community that VIBE's outlier filter takes out, else 0."""
    from raybd.defences.vibe.filter import outliers  # its libraries take 2 s

    v, y = features.v.double().numpy(), features.images.y.numpy()
    found = outliers(v, y, features.classes, "composition", features.seed, heartbeat=features.context.heartbeat)
    return found.astype(np.float64)
