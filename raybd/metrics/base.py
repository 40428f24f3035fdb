"""Base class of metrics: a frozen dataclass of settings, and a measurement of a trial at a probe."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from raybd.types import Data, MetricContext, coerce_floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, Any]]  # {"epoch": ..., "metrics": {...}} of each epoch so far
Arrays = Mapping[str, Tensor]  # what `measure` has kept, as name/epoch


def measured_only(numbers: Mapping[str, float]) -> dict[str, float]:
    """`numbers` without those that are nan: what could not be measured is absent, for a 0 would enter means."""
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A metric of trials, measured at probes. The fields of a subclass are its settings."""

    every_probe: ClassVar[bool] = True  # False: after the last epoch only
    needs_twin: ClassVar[bool] = False  # wants the network of the clean twin at the same epoch
    needs_features: ClassVar[bool] = False  # wants a network that tells its features: a raybd.models.Classifier

    def __post_init__(self) -> None:
        coerce_floats(self)

    @abstractmethod
    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Named numbers, and tensors that are kept beside them in the trial's arrays.

        It leaves the network's weights and mode, its gradients and the global random state as they were.
        """

    def measurements(self, probes: Collection[int], epochs: int) -> int:
        """How often it is measured in a training of so many `epochs` with these `probes`, to tell how long it takes."""
        return len({*probes, epochs}) if self.every_probe else 1

    def conclude(self, history: History) -> dict[str, float]:
        """Metrics that need several probes, from the history of all of them, the last included."""
        return {}

    def figures(self, history: History, arrays: Arrays, title: str) -> "dict[str, Figure]":
        """Figures of the whole trial, by name."""
        return {}

    @property
    def min_triggered(self) -> int:
        """The least number of triggered test images, of those that the attack success rate counts."""
        return 0

    def problems(self, data: Data, noise: float) -> list[str]:
        """Why this cannot be measured on `data` with a network of internal noise `noise`; empty if it can."""
        return []
