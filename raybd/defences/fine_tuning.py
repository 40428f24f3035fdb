"""Fine-tuning: training goes on with clean images alone, and the trigger is forgotten, or is not."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, fine_tune
from raybd.types import Images


@dataclass(frozen=True, kw_only=True)
class FineTuning(CleanRepair):
    """SGD on the clean images; the baseline of every repair."""

    steps: int = 500
    learning_rate: float = 0.01

    above: ClassVar[tuple[str, ...]] = ("steps", "learning_rate")

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Fine-tune `model`."""
        fine_tune(model, clean, context, self.steps, self.learning_rate)
        return {}
