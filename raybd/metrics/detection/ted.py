"""TED: on its way through the layers a triggered image comes late to the neighbourhood of the class that it ends in.

Mo, Zhang, Zhang, Ma, Gao, Tian, Wang, Xia, Chen and Pei, "Robust Backdoor Detection for Deep Learning via Topological
Evolution Dynamics", IEEE S&P 2024 (arXiv:2312.02673). Layers, ranks and the score as in the authors' notebook, which
takes the score from pyod 1.x; it is written out here with scikit-learn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.metrics.detection.inputs import InputDetector
from raybd.metrics.detection.roc import Values
from raybd.metrics.subset import random_images
from raybd.models.batch_size import batch_size, batched
from raybd.types import Images, MetricContext

BATCH = 256  # at most
TINY = 1e-12  # of all variance: what a component without any weighs, by whose weight scores are divided


@dataclass(frozen=True, kw_only=True)
class Ted(InputDetector):
    """The score is how unusual the ranks of an image are, layer by layer, among those of clean images.

    Its rank in a layer is the number of clean images that are nearer to it there (Euclidean) than the nearest of the
    class that the network gives it. Layers are convolutions of more than one pixel, ReLUs and linear layers. Clean
    images are validation images where some are set aside, else training images before they were poisoned, those that
    the network gets right (all, where it gets fewer than two right).
    """

    clean: Annotated[int, Ge(2)] = 200  # images, at most

    name: ClassVar[str] = "ted"

    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """pyod's PCA score (N,) of each image's ranks."""
        if not len(x):
            return np.zeros(0)
        pool = random_images(context.clean_images, 2 * self.clean, context.seed, "ted", "clean")
        known = known_images(model, pool, self.clean).x.float() / 255
        clean_ranks, ranks = topological_ranks(model, known, x)
        return pca_scores(clean_ranks, ranks)


@torch.inference_mode()
def known_images(model: nn.Module, images: Images, most: int) -> Images:
    """The first `most` of `images` that `model` gets right; of all where it gets fewer than two right."""
    right = (_classes(model, images.x.float() / 255) == images.y).nonzero().squeeze(1)
    return images.take(right[:most] if len(right) > 1 else torch.arange(min(most, len(images))))


@torch.inference_mode()
def topological_ranks(model: nn.Module, known: Tensor, x: Tensor) -> tuple[Values, Values]:
    """The ranks (n, L) of the clean images `known` (n, C, H, W) among each other, and (N, L) of the images `x`.

    A class that no other clean image has is behind all of them.
    """
    classes, own = _classes(model, known), _classes(model, x)
    among, to = list[Tensor](), list[Tensor]()
    for layer in _layers(model):
        if not _is_called(model, layer, known):
            continue
        at = _outputs(model, layer, known)
        apart = _distances(at, at).fill_diagonal_(torch.inf)  # an image is not its own neighbour
        among.append(_ranks(apart, classes, classes).clamp(max=len(known) - 1))
        to.append(_ranks(_distances(_outputs(model, layer, x), at), own, classes))
    return torch.stack(among, 1).double().cpu().numpy(), torch.stack(to, 1).double().cpu().numpy()


def _ranks(distances: Tensor, own: Tensor, classes: Tensor) -> Tensor:
    """(N,): of `distances` (N, n) to images of `classes` (n,), how many are under the least to one of `own` (N,)."""
    same = own[:, None] == classes
    least = distances.masked_fill(~same, torch.inf).amin(1, keepdim=True)
    return (distances < least).sum(1)


def pca_scores(clean: Values, new: Values) -> Values:
    """pyod's PCA outlier scores (N,) of `new` (N, L) beside `clean` (n, L): sum_j ||z - v_j|| / w_j.

    z is `new` with the mean and deviation of `clean` taken out, v_j the principal directions of `clean` so scaled, of
    length 1, and w_j their shares of its variance. Where pyod would divide by 0, w_j is 1e-12.
    """
    from scipy.spatial.distance import cdist  # here: they take a second, which other metrics need not wait
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(clean)
    with np.errstate(invalid="ignore"):  # no variance at all
        pca = PCA(svd_solver="full").fit(scaler.transform(clean))
    weights = np.maximum(np.nan_to_num(pca.explained_variance_ratio_), TINY)
    found: Values = (cdist(scaler.transform(new), pca.components_) / weights).sum(1)
    return found


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, n) from each of `a` (N, D) to each of `b` (n, D), by differences: by products, ranks of the nearest err."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    for part in model.modules():
        wide = isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)
        if wide or isinstance(part, nn.ReLU | nn.Linear):
            yield part


def _classes(model: nn.Module, x: Tensor) -> Tensor:
    return batched(lambda some: model(some).argmax(1), x, size=batch_size(model, x, BATCH))


def _is_called(model: nn.Module, layer: nn.Module, x: Tensor) -> bool:
    """Whether a pass goes through `layer`: not so where another module takes its weights alone."""
    return _pass(model, layer, x[:1]).numel() > 0


def _outputs(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """(N, D) what `layer` gives for the images `x` (N, C, H, W)."""
    return batched(partial(_pass, model, layer), x, size=batch_size(model, x, BATCH))


def _pass(model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    kept = [x.new_zeros(len(x), 0)]
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output.flatten(1).float().clone()))
    try:
        model(x)
    finally:
        hook.remove()
    return kept[-1]
