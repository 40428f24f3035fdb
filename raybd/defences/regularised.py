"""Training whose regularisation keeps a backdoor from being learnt: what a map of defended settings recommends.

Cina et al., "Backdoor Learning Curves: Explaining Backdoor Poisoning Beyond Influence Functions" (arXiv:2106.07214),
section 5: the more a learner is regularised, the more slowly it learns a backdoor, up to where it does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from raybd.defences.base import Defence, TrainingContext
from raybd.defences.cost import Cost
from raybd.training import Checkpoint, Epoch, fit
from raybd.utils.constraints import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Regularised(Defence):
    """The plain training loop with the trial's weight decay, learning rate and epochs times a factor each.

    The factors come from a map of trials in which these settings vary: the best row over those that were trained
    with, for every attack and rate on the map,

        best = DefendedRegionMap.from_mlflow("sweep").best(**{"defence.name": "none"}).iloc[0]
        Regularised(weight_decay=best["weight_decay"] / usual.weight_decay,
                    learning_rate=best["learning_rate"] / usual.learning_rate,
                    epochs=best["epochs"] / usual.epochs)

    with the columns that varied on the map (`map.axes` names them); a best row that is not `defended` promises
    nothing. The trial's epochs are still those that are yielded: with a factor f, after the n-th of them the network
    has been trained for n f, rounded up. A training that is stopped goes on with the same bits.
    """

    weight_decay: NonNegative = 10.0
    learning_rate: Positive = 1.0
    epochs: Positive = 1.0

    parallel: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The plain training loop under another configuration; patience does not end it."""
        train_config, asked = context.train_config, context.train_config.epochs
        total = self.total(asked)
        rate, decay = train_config.learning_rate * self.learning_rate, train_config.weight_decay * self.weight_decay
        inside = replace(train_config, learning_rate=rate, weight_decay=decay, epochs=total, patience=0)
        state = context.checkpoint.load() if context.checkpoint is not None else None
        cost = Cost(state)
        checkpoint = context.checkpoint and ScaledCheckpoint(context.checkpoint, cost, asked, total)
        for epoch in fit(context.model, context.images, inside, context.seed, checkpoint):
            cost.passes += 1
            for number in range((epoch.number - 1) * asked // total + 1, epoch.number * asked // total + 1):
                yield Epoch(number, epoch.loss, number == asked, cost.numbers(number))

    def total(self, asked: int) -> int:
        """The epochs of training behind `asked` ones that are yielded."""
        return max(1, round(asked * self.epochs))


class ScaledCheckpoint(Checkpoint):
    """A checkpoint of `total` epochs of training to whom trains, and of `asked` to whom asks which was yielded last."""

    def __init__(self, inner: Checkpoint, cost: Cost, asked: int, total: int) -> None:
        self._inner, self._cost, self._asked, self._total = inner, cost, asked, total

    def load(self) -> dict[str, Any] | None:
        """The state last saved, with the epoch of training."""
        state = self._inner.load()
        return state and state | {"epoch": state["trained"]}

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` under the epoch that was yielded last."""
        trained = state["epoch"]
        yielded = trained * self._asked // self._total
        self._inner.save(state | {"epoch": yielded, "trained": trained} | self._cost.state())
