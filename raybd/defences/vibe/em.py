"""Expectation-maximisation over latent clean labels: pseudolabels by optimal transport, heads by gradient descent.

Every random number of a pass comes from streams named by (seed, purpose, number), so a run that is resumed goes on
with the same bits as one that was never stopped.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from raybd.defences.vibe.heads import Heads
from raybd.defences.vibe.transport import Transport, solve
from raybd.errors import DivergedError, InputError
from raybd.seeds import stream

log = logging.getLogger(__name__)
CHUNK = 4096  # rows of features that are scored at a time
HALF = 2**28  # numbers of J above which they are kept in float16
FORSAKEN = 1e-30  # a class's mass at the least, should its prior underflow: a plan has no column of 0
WRONG = 0.01  # column error of a plan beyond which its labels are not the E-step's: about as many are other ones
Pseudolabels = Literal["hard", "soft", "annealed"]


@dataclass(frozen=True, kw_only=True)
class EmConfig:
    """How the latent labels and the heads are found; `defence.py` says what each field means."""

    iterations: int = 2000
    e_steps: int = 10
    sharpness: float = 25.0
    pseudolabels: Pseudolabels = "hard"
    unassigned: float = 0.0
    flip_stop: float = 0.0
    batch_size: int = 256
    learning_rate: float = 0.01
    prototype_rate: float = 1.0
    prior_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    freeze_eta: bool = False
    blind_start: bool = True  # False only to show what it is for: the first E-step then reads y, and keeps poison


class Features(Protocol):
    """Where features come from: kept ones, or a backbone that is trained along."""

    parameters: Sequence[nn.Parameter]  # trained along, at the plain learning rate

    def every(self) -> Tensor:
        """v (N, D) of all training images, as an E-step sees them."""
        ...

    def batch(self, index: Tensor) -> Tensor:
        """v (B, D) of the training images `index` (B,), as an M-step sees them."""
        ...


class FrozenFeatures:
    """Features (N, D) that stay."""

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, v: Tensor) -> None:
        self.v = v

    def every(self) -> Tensor:
        """All of them."""
        return self.v

    def batch(self, index: Tensor) -> Tensor:
        """Those at `index`."""
        return self.v[index]


def check_features(v: Tensor, y: Tensor, classes: int) -> None:
    """Refuse features (N, D) and given labels (N,) that no EM can start from.

    Raises:
        InputError: with every reason.
    """
    found = [] if classes > 1 else [f"VIBE needs 2 classes or more, got {classes}"]
    if v.ndim != 2 or len(v) != len(y):
        found.append(f"features must be ({len(y)}, D), one row a label, got {tuple(v.shape)}")
    if bad := int((~v.isfinite()).flatten(1).any(1).sum()):
        found.append(f"features must be finite; {bad} of {len(v)} rows are not")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        found.append(f"labels must be of 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")
    elif empty := (torch.bincount(y, minlength=classes) == 0).nonzero()[:, 0].tolist():
        found.append(f"every class needs an image with its label, none has {', '.join(map(str, empty))}")
    if found:
        raise InputError(found)


class Em:
    """The state of one run over N images with given labels `y` (N,)."""

    def __init__(self, heads: Heads, features: Features, y: Tensor, config: EmConfig, seed: int) -> None:
        self.heads, self.features, self.y, self.config, self.seed = heads, features, y, config, seed
        self.iteration = self.steps = 0
        self.flips = math.nan  # share of labels that the last E-step changed
        self.column_error = 0.0  # the largest of all E-steps' plans
        self.settled = False
        self.duals: Tensor | None = None
        self.labels = y  # l (N,); K stands for none
        self.first_labels = y  # those of the first E-step
        self.targets: Tensor | None = None  # N Q (N, K) where pseudolabels are soft
        self.optimizer = _optimizer(heads, features, config)
        self._order: Tensor | None = None  # of the images in this pass

    def start(self) -> None:
        """Prototypes at the class means of the given labels."""
        v = self.features.every()
        check_features(v, self.y, self.heads.out_features)
        self.heads.start(v, self.y, self.seed)

    def advance(self, until: int) -> float:
        """Go on to iteration `until`; the mean loss on the way, in nats."""
        total = torch.zeros((), device=self.y.device)
        first = self.iteration
        while self.iteration < until:
            if self._due():
                self.e_step()
            total += self.m_step()
            self.iteration += 1
        return float(total) / max(1, self.iteration - first)

    def e_step(self) -> Transport:
        """Solve for the pseudolabels of all images.

        Raises:
            DivergedError: the plan's columns are off by more than 0.01 in all.
        """
        scores = self.scores(blind=self.iteration == 0 and self.config.blind_start)
        sharpness = self._sharpness()
        plan = self._solve(scores, sharpness)
        labels = plan.labels(scores)
        self.flips = float((labels != self.labels).float().mean()) if self.steps else math.nan
        self.settled = self.steps > 0 and self.flips < self.config.flip_stop
        self.first_labels = self.first_labels if self.steps else labels
        self.labels, self.duals, self.steps = labels, plan.duals / sharpness, self.steps + 1
        if self.config.pseudolabels != "hard":
            self.targets = torch.cat([plan.rows(part) for part in scores()]).to(self.heads.clean.dtype)
        return plan

    def m_step(self) -> Tensor:
        """One step of gradient descent on -ln p(l|x) - ln p(y|l[,x]), the mean over a batch of images; its loss."""
        index = self._batch()
        loss = self.loss(self.features.batch(index), index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, v: Tensor, index: Tensor) -> Tensor:
        """The M-step's loss () of the images `index` (B,) with features `v` (B, D); those unassigned count 0."""
        joint = self.heads.joint_log(v, self.y[index])
        if self.targets is not None:
            return -(joint * self.targets[index, : joint.shape[1]]).sum() / len(index)
        labels = self.labels[index]
        assigned = labels < joint.shape[1]
        picked = joint.gather(1, labels.clamp_max(joint.shape[1] - 1)[:, None])[:, 0]
        return -(picked * assigned).sum() / len(index)

    @torch.no_grad()
    def scores(self, blind: bool = False) -> "ScoreChunks":
        """J in chunks (n, K), or (n, K + 1) with a column of zeros for those that no class explains."""
        v, extra = self.features.every(), self.config.unassigned > 0
        half = len(v) * self.heads.out_features > HALF
        parts = []
        for part, y in zip(v.split(CHUNK), self.y.split(CHUNK), strict=True):
            joint = self.heads.joint_log(part.to(self.heads.clean.dtype), y, blind)
            joint = torch.cat([joint, joint.new_zeros(len(joint), 1)], 1) if extra else joint
            # The plan is the same whatever is added to a row, and float16 is finest near 0.
            parts.append((joint - joint.amax(1, keepdim=True)).half() if half else joint)
        return ScoreChunks(parts)

    def prior(self) -> Tensor:
        """The columns' masses: pi (K,), or with what stays unassigned (K + 1,)."""
        pi = self.heads.bias.detach().double().exp().clamp_min(FORSAKEN)
        spare = self.config.unassigned
        return torch.cat([pi * (1 - spare), pi.new_full((1,), spare)]) if spare > 0 else pi

    def posterior(self) -> tuple[Tensor, Tensor]:
        """q(l|x, y) (N, K or K + 1) at lambda = 1 and the pseudolabels (N,) of a fresh E-step.

        The plan at its own lambda is nearly one-hot. At 1, with the duals it implies there, q is Bayes' posterior
        under a prior that balances the classes: a graded, if not a perfect, probability.
        """
        scores = self.scores()
        plan = self._solve(scores, self.config.sharpness)
        soft = Transport(plan.duals / self.config.sharpness, 1.0, plan.error, 0, 0, 0)
        return torch.cat([soft.rows(part.double()) for part in scores()]), plan.labels(scores)

    def state(self) -> dict[str, Any]:
        """All that a later attempt needs besides the weights of heads and backbone."""
        names = ("iteration", "steps", "flips", "settled", "duals", "labels", "first_labels", "targets", "column_error")
        return {name: getattr(self, name) for name in names} | {"optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, whose weights are in place already."""
        self.optimizer.load_state_dict(state["optimizer"])
        for name in state.keys() - {"optimizer"}:
            value = state[name]
            setattr(self, name, value.to(self.y.device) if isinstance(value, Tensor) else value)

    def _solve(self, scores: "ScoreChunks", sharpness: float) -> Transport:
        """The plan of `scores`, from the duals of the last one; reported where it is off, refused where far off."""
        start = None if self.duals is None else self.duals * sharpness
        plan = solve(scores, self.prior(), sharpness, start)
        self.column_error = max(self.column_error, plan.error)
        if plan.error > WRONG or not math.isfinite(plan.error):
            raise DivergedError(
                f"an E-step's plan is no plan: after {plan.passes} passes its columns are off by {plan.error:.2g}"
            )
        if not plan.converged:
            log.warning("an E-step's columns are off by %.1g after %d passes", plan.error, plan.passes)
        return plan

    def _due(self) -> bool:
        wanted = self.iteration * self.config.e_steps // self.config.iterations
        before = (self.iteration - 1) * self.config.e_steps // self.config.iterations
        return (self.iteration == 0 or wanted > before) and not self.settled

    def _sharpness(self) -> float:
        """lambda; annealed, it rises from 1 to that over the E-steps, by the same factor each."""
        if self.config.pseudolabels != "annealed":
            return self.config.sharpness
        share = min(1.0, self.steps / max(1, self.config.e_steps - 1))
        return float(self.config.sharpness**share)

    def _batch(self) -> Tensor:
        """The images (B,) of this iteration; every image comes once a pass."""
        batches = math.ceil(len(self.y) / self.config.batch_size)
        number, position = divmod(self.iteration, batches)
        if position == 0 or self._order is None:
            order = torch.randperm(len(self.y), generator=stream(self.seed, "vibe batches", number))
            self._order = order.to(self.y.device)
        size = len(self.y) / batches  # equal parts: batch norm cannot take a lone last image
        return self._order[round(position * size) : round((position + 1) * size)]


class ScoreChunks:
    """Scores that are kept in parts."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts

    def __call__(self) -> list[Tensor]:
        """The parts."""
        return self.parts


def _optimizer(heads: Heads, features: Features, config: EmConfig) -> torch.optim.Optimizer:
    prototypes = [heads.clean] if config.freeze_eta else [heads.clean, heads.corrupted]
    groups = [
        {"params": prototypes, "lr": config.learning_rate * config.prototype_rate},
        {"params": [heads.preference], "lr": config.prior_rate},
    ]
    if features.parameters:
        groups.append({"params": list(features.parameters), "lr": config.learning_rate})
    return torch.optim.SGD(
        groups, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
