"""Detectors of inputs: a score for each test image, with and without the trigger, on the network and on its twin."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.base import Metric
from raybd.metrics.detection.curve import Values, detection
from raybd.seeds import forked_rng, stream
from raybd.types import Data, MetricContext
from raybd.utils.constraints import violations


@dataclass(frozen=True, kw_only=True)
class InputDetector(Metric):
    """AUROC and false positives of a score; "null" is the same on the clean twin, where there is nothing to find."""

    points: Annotated[int, Ge(1)] = (
        200  # test images that the attack counts, at most; each with and without the trigger
    )

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True
    name: ClassVar[str]

    @abstractmethod
    def scores(self, model: nn.Module, x: Tensor, rows: list[int], context: MetricContext) -> Values:
        """(N,) how triggered `model` finds the images `x` (N, C, H, W) in [0, 1], which are rows of the test set."""

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """The numbers of the network and of the twin; nothing where the attack counts no image.

        Raises:
            InputError: the trial has no clean twin.
        """
        if context.twin is None:
            raise InputError(f"{self.name} needs the clean twin, and this trial came without it")
        rows = _some(context.measured, self.points, context.seed, self.name)
        same = rows % len(context.data.test)
        clean, triggered = (x[i].float() / 255 for x, i in ((context.data.test.x, same), (context.triggered.x, rows)))
        found: dict[str, float | Tensor] = {}
        with forked_rng(context.seed, self.name, device=clean.device):
            for prefix, model in (("", context.model), ("null_", context.twin)):
                negative, positive = (self.scores(model, x, rows.tolist(), context) for x in (clean, triggered))
                found |= {f"{self.name}/{prefix}{name}": v for name, v in detection(negative, positive).items()}
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range."""
        return violations(self, f"{self.name}: ")


def _some(mask: Tensor, most: int, seed: int, name: str) -> Tensor:
    """At most `most` of the indices of `mask`, in random order; those of a smaller number are among a larger one's."""
    eligible = mask.cpu().nonzero().flatten()
    order = torch.randperm(len(eligible), generator=stream(seed, name, "points"))
    return eligible[order[:most]].to(mask.device)


def empty() -> Values:
    """The scores of no image."""
    return np.zeros(0)
