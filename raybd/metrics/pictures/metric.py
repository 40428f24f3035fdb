"""Pictures of a trial at its end, on request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from raybd.metrics.base import Arrays, History, Metric
from raybd.metrics.pictures.embedding import embedded, images_by_role
from raybd.metrics.pictures.maps import channel_change, grad_cam
from raybd.metrics.pictures.spectrum import mean_spectra
from raybd.metrics.subset import random_subset
from raybd.models import Classifier
from raybd.seeds import forked_rng
from raybd.types import Data, MetricContext
from raybd.utils.constraints import violations

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Pictures(Metric):
    """t-SNE of training images' features by role, Grad-CAM of clean and triggered test images, the trigger's spectrum,
    and how far the trigger moves each channel; the clean twin is beside what it can show.

    What cannot be drawn is left out: t-SNE without features, Grad-CAM and channels without maps, the rest without
    triggered images. There are no numbers in it, for a picture proves nothing.
    """

    images: Annotated[int, Ge(20)] = 300  # at most: training images of t-SNE, test images of spectrum and channels
    examples: Annotated[int, Interval(ge=1, le=8)] = 4  # test images of Grad-CAM, at most

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """What the pictures are drawn of, as arrays.

        Raises:
            InputError: the trial has no clean twin.
        """
        twin = context.clean_twin("pictures")
        with forked_rng(context.seed, "pictures", device=context.data.test.x.device):
            found = {**self._by_role(context), **self._triggered(context, twin)}
        return {f"pictures/{name}": value for name, value in found.items()}

    def _by_role(self, context: MetricContext) -> dict[str, Tensor]:
        if not isinstance(context.model, Classifier):
            return {}
        index, roles = images_by_role(context, self.images)
        x = context.poisoned.images.take(index).x.float() / 255
        return {"tsne": embedded(context.model, x, context.seed), "roles": roles}

    def _triggered(self, context: MetricContext, twin: nn.Module) -> dict[str, Tensor]:
        rows = random_subset(context.measured.nonzero().flatten(), self.images, context.seed, "pictures", "points")
        if not len(rows):
            return {}
        clean, triggered = context.data.test.take(rows % len(context.data.test)).x, context.triggered.take(rows).x
        some = {
            "spectrum": mean_spectra(clean, triggered),
            "images": torch.stack([clean, triggered])[:, : self.examples],
        }
        networks, pair = (context.model, twin), (clean.float() / 255, triggered.float() / 255)
        maps = [_cams(network, *(x[: self.examples] for x in pair)) for network in networks]
        moved = [channel_change(network, *pair) for network in networks]
        both = {"cams": maps, "channels": moved}
        return some | {k: torch.stack([v for v in vs if v is not None]) for k, vs in both.items() if vs[0] is not None}

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """Those that there are arrays for: tsne, grad_cam, spectrum, channels."""
        from raybd.metrics.pictures import figures  # only drawing needs matplotlib

        end = {name.split("/")[1]: values.numpy() for name, values in arrays.items() if name.startswith("pictures/")}
        return figures.drawn(end, title)

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range."""
        return violations(self, "pictures: ")


def _cams(model: nn.Module, clean: Tensor, triggered: Tensor) -> Tensor | None:
    """(2, n, H, W) Grad-CAM of the images, clean and triggered; None where the network makes no maps."""
    maps = [grad_cam(model, x) for x in (clean, triggered)]
    return None if maps[0] is None or maps[1] is None else torch.stack([maps[0], maps[1]])
