"""CBD: a network trained briefly learns the backdoor; another learns what that one finds hard, in features of its own.

Zhang, Liu, Wang, Lu and Hu, "Backdoor Defense via Deconfounded Representation Learning", CVPR 2023 (arXiv:2303.06818),
and the authors' code. f_B is trained on everything for a few epochs. f_C, which is deployed, is trained by

    mean of w CE(f_C(x), y) + a (E[D(r, z)] - E[D(r, z')]),
    w(x) proportional to CE(f_B(x), y) / (CE(f_B(x), y) + CE(f_C(x), y)), of mean 1 over a batch,

r and z being the features of f_B and f_C, z' those of another image of the batch (the next), D a critic of Lipschitz
constant 1 that maximises the difference: a Wasserstein bound on what z tells of r.

Constants: 5 of 100 epochs of f_B, here as a share, at a constant rate; a = 0.01; D of two layers with dropout 0.2 and
leaky ReLUs, divided by its spectral norm after every step, Adam at 0.2, a tenth of that after each 20 of 100 epochs:
those of the code. In it D has an epoch of its own before each of f_C, its spectral norm is of five power iterations
and taken of the biases too, and a is 0 unless asked for; here D has a step before each of f_C, the norm is exact and of
the weights. f_B and f_C begin at the same weights here. The paper's bound on what z tells of x is not in the code, nor
here.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import SUSPICION, Defence, TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.filtering import needs_features
from raybd.defences.first_training import Found, train_twice
from raybd.defences.trainer import losses_of
from raybd.models import Classifier
from raybd.seeds import forked_rng
from raybd.training import Epoch
from raybd.utils.constraints import InnerShare, NonNegative, Positive

DROPOUT, FALLS = 0.2, 5  # of D: its learning rate falls to a tenth at the end of each fifth of the training


@dataclass(frozen=True, kw_only=True)
class Cbd(Defence):
    """Reweights, and keeps features apart. It ranks the images by the loss of f_B, and flags none.

    A training that is stopped goes on with the same bits.
    """

    early: InnerShare = 0.05  # epochs of f_B, as a share of the trial's; one or more
    disentangle: NonNegative = 0.01  # a; 0: no critic
    critic_rate: Positive = 0.2

    def network(self, model: nn.Module) -> nn.Module:
        """The network as it is. Raises InputError where it does not tell its features."""
        return needs_features("cbd", model)

    def passes(self, epochs: int, images: int) -> float:
        """Those of both trainings, and f_B's look at each image."""
        return self._early(epochs) + epochs * (1 + 1 / 3)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """The training of f_B, then that of f_C."""
        model, last = cast(Classifier, context.model), context.train_config.epochs
        other, critic = copy.deepcopy(model), new_critic(model, context)
        trainer, found = train_twice(context, model, self._early(last), _plain, partial(_found, context))
        other.load_state_dict(found["first"])
        other.eval().requires_grad_(False)
        climber = torch.optim.Adam(critic.parameters(), lr=self.critic_rate)
        if trainer.state:
            critic.load_state_dict(trainer.state["critic"])
            climber.load_state_dict(trainer.state["climber"])
        context.findings[SUSPICION] = found["suspicion"]
        for number in range(trainer.first, last + 1):
            climber.param_groups[0]["lr"] = self.critic_rate * 0.1 ** (FALLS * (number - 1) // last)
            loss_of = partial(self._loss, model, other, critic, climber)
            loss = trainer.epoch(number, context.images.at(number), loss_of)
            trainer.cost.passes += 1 / 3  # of f_B
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            trainer.save(number, critic=critic.state_dict(), climber=climber.state_dict())

    def _early(self, epochs: int) -> int:
        return max(1, round(self.early * epochs))

    def _loss(
        self,
        model: Classifier,
        other: Classifier,
        critic: nn.Module,
        climber: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        _: Tensor,
    ) -> Tensor:
        """The loss of a batch, before which the critic has climbed a step."""
        z = model.features(model.normalise(x))
        with torch.no_grad():
            r = other.features(other.normalise(x))
            hard = F.cross_entropy(other.classify(r), y, reduction="none")
        losses = F.cross_entropy(model.classify(z), y, reduction="none")
        loss = (weights_of(hard, losses.detach()) * losses).mean()
        if not self.disentangle:
            return loss
        climb(critic, climber, r.float(), z.detach().float())
        return loss + self.disentangle * dependence(critic, r.float(), z.float())


def weights_of(first: Tensor, own: Tensor) -> Tensor:
    """w (B,) of the losses (B,) of f_B and f_C, of mean 1."""
    weights = first / (first + own + 1e-8)
    return weights / weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)


def dependence(critic: nn.Module, r: Tensor, z: Tensor) -> Tensor:
    """E[D(r, z)] - E[D(r, z')] of features `r` (B, D_r) and `z` (B, D_z); z' is `z` of the next image, of the last the
    first's."""
    together, apart = critic(torch.cat([r, z], 1)), critic(torch.cat([r, z.roll(-1, 0)], 1))
    difference: Tensor = together.mean() - apart.mean()
    return difference


def climb(critic: nn.Module, climber: torch.optim.Optimizer, r: Tensor, z: Tensor) -> None:
    """A step of the critic's, and its weights back to a spectral norm of 1."""
    climber.zero_grad(set_to_none=True)
    (-dependence(critic, r, z)).backward()
    climber.step()
    with torch.no_grad():
        for weight in critic.parameters():
            if weight.ndim == 2:
                weight.div_(torch.linalg.matrix_norm(weight, 2).clamp_min(1e-12))


def new_critic(model: Classifier, context: TrainingContext) -> nn.Sequential:
    """D: (B, D_r + D_z) -> (B, 1), from the stream "critic"."""
    size, device = model.feature_size, context.images.x.device
    with forked_rng(context.seed, "critic", device=torch.device("cpu")):
        inner, outer = nn.Linear(2 * size, size), nn.Linear(size, 1)
    critic = nn.Sequential(nn.Dropout(DROPOUT), inner, nn.LeakyReLU(), nn.Dropout(DROPOUT), outer)
    return critic.to(device)


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def _found(context: TrainingContext, first: nn.Module, cost: Cost) -> Found:
    """The weights of f_B, and the suspicion of each image: the less its loss, the more."""
    cost.passes += 1 / 3
    return {"first": first.state_dict(), "suspicion": -losses_of(first, context.images, context)}
