"""The settings of an audit."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from raybd.training import TrainConfig
from raybd.utils.constraints import InnerShare, Positive


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """How the networks of an audit are trained, and what is called a finding."""

    model: str = "small_cnn"
    width: Positive = 0.5
    epochs: Annotated[int, Ge(1)] = 30
    pretrain_epochs: Annotated[int, Ge(1)] = 10  # of the encoder, without labels
    seed: Annotated[int, Ge(0)] = 0
    false_alarm: InnerShare = 0.05  # level at which a clean set is to be called planted

    @property
    def training(self) -> TrainConfig:
        """Of the network: without augmentation, for a trigger that moves is learnt later."""
        return TrainConfig(epochs=self.epochs, weight_decay=0.0)
