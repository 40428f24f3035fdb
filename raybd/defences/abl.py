"""Anti-backdoor learning: what is learnt first and best is the backdoor, and it is unlearnt.

Li et al., "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021 (arXiv:2110.11571).
Equation 2 keeps the losses of the first epochs near gamma, which poison alone can undercut:

    L_LGA = E[sign(l(x, y) - gamma) l(x, y)]     up to the turning epoch,

and equation 3 unlearns the share p of lowest losses, D_b, keeping the rest, D_c:

    L_GGA = E_{D_c}[l(x, y)] - E_{D_b}[l(x, y)].

Between them the network is trained on D_c alone, as in the paper's own experiments.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.defences.base import FLAGGED, SUSPICION, Defence, TrainingContext
from raybd.defences.filtering import subset
from raybd.defences.trainer import LossOf, Trainer, losses_of, lowest
from raybd.training import Epoch
from raybd.utils.constraints import InnerShare, Positive


@dataclass(frozen=True, kw_only=True)
class Abl(Defence):
    """Isolates, trains on, unlearns: the paper's 20, 60 and 20 of 100 epochs, as shares of the trial's.

    It always suspects the share p, poison or not. A training that is stopped goes on with the same bits.
    """

    gamma: Positive = 0.5  # nats
    isolation: InnerShare = 0.01  # p
    early: InnerShare = 0.2  # share of the epochs that isolate; one or more
    late: InnerShare = 0.2  # share that unlearns; one or more
    unlearning_rate: Positive = 5e-4  # learning rate of the unlearning

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The three phases."""
        trainer, last = Trainer(context), context.train_config.epochs
        early, late = max(1, round(self.early * last)), max(1, round(self.late * last))
        state = trainer.state or {}
        suspicion, poison = state.get("suspicion"), state.get("flagged")
        for number in range(trainer.first, last + 1):
            images = context.images.at(number)
            if number <= early:
                loss = trainer.epoch(number, images, self._ascending(trainer))
            elif number <= last - late:
                assert poison is not None
                loss = trainer.epoch(number, subset(images, (~poison).nonzero()[:, 0]), _plain(trainer))
            else:
                assert poison is not None
                loss = trainer.epoch(number, images, _unlearning(trainer, poison), self.unlearning_rate)
            if number == early:
                suspicion = -losses_of(context.model, images, context)
                poison = lowest(-suspicion, max(1, round(self.isolation * len(images))))
                trainer.cost.passes += 1 / 3  # a pass forward
            if suspicion is not None and poison is not None:
                context.findings.update({SUSPICION: suspicion, FLAGGED: poison})
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            found = {} if suspicion is None else {"suspicion": suspicion, "flagged": poison}
            trainer.save(number, **found)

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """No epochs between the early and the late ones."""
        return [] if self.early + self.late < 1 else ["early and late must leave epochs between them"]

    def _ascending(self, trainer: Trainer) -> LossOf:
        return lambda x, y, _: local_ascent(F.cross_entropy(trainer.model(x), y, reduction="none"), self.gamma)


def local_ascent(losses: Tensor, gamma: float) -> Tensor:
    """L_LGA, the mean of sign(l - gamma) l over `losses` (B,) in nats."""
    return ((losses.detach() - gamma).sign() * losses).mean()


def unlearning_weights(poison: Tensor) -> Tensor:
    """(N,) w with mean(w l) = L_GGA, of the mask `poison` (N,): N / |D_c| on the rest, - N / |D_b| on the poison."""
    bad = int(poison.sum())
    weights = torch.full((len(poison),), len(poison) / (len(poison) - bad))
    weights[poison] = -len(poison) / bad
    return weights


def _plain(trainer: Trainer) -> LossOf:
    smoothing = trainer.context.train_config.label_smoothing
    return lambda x, y, _: F.cross_entropy(trainer.model(x), y, label_smoothing=smoothing)


def _unlearning(trainer: Trainer, poison: Tensor) -> LossOf:
    weights = unlearning_weights(poison).to(trainer.context.images.x.device)
    return lambda x, y, index: (weights[index] * F.cross_entropy(trainer.model(x), y, reduction="none")).mean()
