"""Training images by their roles, and their features in two dimensions."""

import torch
from torch import Tensor

from raybd.metrics.subset import random_subset
from raybd.models import Classifier
from raybd.models.batch_size import batch_size, batched
from raybd.types import CLEAN, COVER, POISON, MetricContext

ROLES = ("clean", "clean, of the class that the poison has", "poison", "cover")
BATCH = 256  # at most
PERPLEXITY = 30  # scikit-learn's default, where there are images enough


def images_by_role(context: MetricContext, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` training images, of each role its share or all: indices and roles (n,), of ROLES."""
    given, roles = context.poisoned.images.y, context.poisoned.roles
    wanted = given[roles == POISON].unique()
    same = torch.isin(given, wanted) if len(wanted) == 1 else torch.zeros_like(given, dtype=torch.bool)
    masks = ((roles == CLEAN) & ~same, (roles == CLEAN) & same, roles == POISON, roles == COVER)
    present = sum(bool(mask.any()) for mask in masks)
    drawn = [
        random_subset(mask.nonzero().squeeze(1), most // present, context.seed, "pictures", role)
        for mask, role in zip(masks, ROLES, strict=True)
    ]
    return torch.cat(drawn), torch.cat([torch.full_like(one, k) for k, one in enumerate(drawn)])


def embedded(model: Classifier, x: Tensor, seed: int) -> Tensor:
    """(n, 2): scikit-learn's t-SNE of the features of the images `x` (n, C, H, W) in [0, 1], begun at their PCA."""
    from sklearn.manifold import TSNE  # here: it takes a second, which other metrics need not wait

    with torch.no_grad():
        t = batched(lambda some: model.features(model.normalise(some)), x, size=batch_size(model, x, BATCH))
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(t.double().cpu().numpy())
    return torch.from_numpy(found).float()
