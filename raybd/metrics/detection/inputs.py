"""Base class of input detectors: a score for each test image, clean and triggered, on the network and on its twin."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from raybd.metrics.base import Metric
from raybd.metrics.detection.roc import Values, roc_metrics
from raybd.metrics.subset import random_subset
from raybd.seeds import forked_rng
from raybd.types import Data, MetricContext
from raybd.utils.constraints import violations


@dataclass(frozen=True, kw_only=True)
class InputDetector(Metric):
    """AUROC and false positives of a score; "null" is the same on the clean twin, where there is nothing to find."""

    points: Annotated[int, Ge(1)] = 200  # test images at most, of those that the attack counts

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
        twin = context.clean_twin(self.name)
        rows = random_subset(context.measured.nonzero().flatten(), self.points, context.seed, self.name, "points")
        same = rows % len(context.data.test)
        clean, triggered = (x[i].float() / 255 for x, i in ((context.data.test.x, same), (context.triggered.x, rows)))
        found: dict[str, float | Tensor] = {}
        with forked_rng(context.seed, self.name, device=clean.device):
            for prefix, model in (("", context.model), ("null_", twin)):
                negative, positive = (self.scores(model, x, rows.tolist(), context) for x in (clean, triggered))
                found |= {f"{self.name}/{prefix}{name}": v for name, v in roc_metrics(negative, positive).items()}
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range."""
        return violations(self, f"{self.name}: ")
