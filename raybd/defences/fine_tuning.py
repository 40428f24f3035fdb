"""Fine-tuning: training goes on with clean images alone, and the trigger is forgotten, or is not."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, fine_tune
from raybd.types import Images
from raybd.utils.constraints import Positive


@dataclass(frozen=True, kw_only=True)
class FineTuning(CleanRepair):
    """SGD on the clean images; the baseline of every repair."""

    steps: Annotated[int, Ge(1)] = 500
    learning_rate: Positive = 0.01

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Fine-tune `model`."""
        fine_tune(model, clean, context, self.steps, self.learning_rate)
        return {}
