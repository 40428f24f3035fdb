"""Blends: an image that keeps its class when it is averaged with images of other labels carries a trigger all over it.

After STRIP (Gao et al., arXiv:1902.06531), whose entropy is here the probability of the label that the image has.
"""

import torch

from raybd.auditing.features import AuditFeatures, Floats
from raybd.auditing.probing import donors, probabilities

DONORS = 10
AT_ONCE = 32
SHARE = 0.5  # of the image in the blend


def blend_scores(features: AuditFeatures) -> Floats:
    """(N,): mean probability of an image's label on its averages with images of other labels, in [0, 1]."""
    images = features.images
    parts = []
    for index in torch.arange(len(images)).split(AT_ONCE):
        to = donors(images.y, index, DONORS, features.seed)
        mixed = SHARE * images.x[index][:, None].float() + (1 - SHARE) * images.x[to].float()
        after = probabilities(features.network, mixed.flatten(0, 1)).unflatten(0, to.shape)
        label = images.y[index][:, None, None].expand(*to.shape, 1)
        parts.append(after.gather(2, label).mean((1, 2)))
        features.context.heartbeat()
    found: Floats = torch.cat(parts).double().numpy()
    return found
