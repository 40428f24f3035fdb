"""A first training of a copy of the network, before the trial's own: what it finds out decides how the second trains.

A training that is stopped resumes in either, with the same bits; what was found is kept in the checkpoints.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.filtering import FIRST, FilterCheckpoint, FirstCheckpoint
from raybd.defences.trainer import Trainer

Found = dict[str, Any]  # tensors, and what a checkpoint can hold
ModelLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # network, images (B, C, H, W), labels (B,) -> loss
Find = Callable[[nn.Module, Cost], Found]  # the network of the first training, and the cost so far, to add to


def train_twice(
    context: TrainingContext, first: nn.Module, epochs: int, loss: ModelLoss, find: Find
) -> tuple[Trainer, Found]:
    """The trainer of the second training, and what `find` found out after the first.

    The first trains a copy of `first` for `epochs` by `loss`, at the trial's peak learning rate throughout. It is not
    done again where a checkpoint has what was found.
    """
    state = context.checkpoint.load() if context.checkpoint is not None else None
    if state is None or FIRST in state:
        trained = _first_training(context, first, epochs, loss)
        found, cost = find(trained.model, trained.cost), trained.cost
    else:
        found, cost = state["found"], Cost(state)
    checkpoint = context.checkpoint and FilterCheckpoint(context.checkpoint, {"found": found}, cost)
    trainer = Trainer(replace(context, checkpoint=checkpoint))
    trainer.cost = cost
    return trainer, found


def _first_training(context: TrainingContext, model: nn.Module, epochs: int, loss: ModelLoss) -> Trainer:
    """The trainer of the first training, which is done."""
    copied, train_config = copy.deepcopy(model), replace(context.train_config, epochs=epochs)
    checkpoint = context.checkpoint and FirstCheckpoint(context.checkpoint, Cost())  # its trainer keeps the cost
    trainer = Trainer(replace(context, model=copied, train_config=train_config, checkpoint=checkpoint))
    for number in range(trainer.first, epochs + 1):
        images = context.images.at(number)
        trainer.epoch(number, images, lambda x, y, _: loss(copied, x, y), train_config.learning_rate)
        trainer.save(number)
    return trainer
