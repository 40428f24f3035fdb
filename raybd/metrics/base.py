"""What every metric is: settings, and a way to look at a trial."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raybd.types import Data, Evidence, settle_floats


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """Numbers of a trial at a probe. The fields of a subclass are its settings."""

    every_probe: ClassVar[bool] = True  # False: after the last epoch only
    needs_twin: ClassVar[bool] = False  # wants the network of the clean twin at the same epoch

    def __post_init__(self) -> None:
        settle_floats(self)

    @abstractmethod
    def measure(self, seen: Evidence) -> dict[str, float | Tensor]:
        """Named numbers, and tensors that are kept beside them in the trial's arrays.

        It leaves the network's weights and mode, its gradients and the global random state as they were.
        """

    def problems(self, data: Data, noise: float) -> list[str]:
        """Why this cannot be measured on `data` with a network of internal noise `noise`; empty if it can."""
        return []
