"""MixMatch: training on images of which only some have labels that are believed.

Berthelot et al., NeurIPS 2019 (arXiv:1905.02249), algorithm 1 and equations 2 to 5, with K = 2 views, for a batch X
with labels and a batch U without:

    q = sharpen(mean over the views of p(. | u), T),  sharpen(p, T)_j = p_j^(1/T) / sum_i p_i^(1/T)
    lambda ~ Beta(alpha, alpha), lambda' = max(lambda, 1 - lambda), and all are mixed with all, shuffled
    loss = mean of H(p, p_model) over the mixed X + lambda_U mean of |q - p_model|^2 / classes over the mixed U,

lambda_U rising linearly from 0 over the whole training. A view is the trial's own augmentation; where that is off,
both are the image itself. The lambda is one draw a step, as in the defences that build on it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.defences.augmented import beta, mix
from raybd.defences.trainer import Trainer
from raybd.seeds import stream
from raybd.training import augment, autocast, learning_rate, prepare
from raybd.types import Images


@dataclass(frozen=True, kw_only=True)
class MixMatch:
    """Its settings."""

    temperature: float = 0.5  # T
    alpha: float = 0.75
    unlabelled: float = 15.0  # lambda_U

    def epoch(self, trainer: Trainer, number: int, images: Images, believed: Tensor) -> float:
        """The mean loss of an epoch on `images`, whose labels count where `believed` (N,) bool.

        It has ceil(N / B) steps as any training, each with a batch B of either kind, in an order of its own that
        starts anew where it ends. Where all or none are believed, the other kind is drawn from all images too.

        Raises:
            DivergedError: the loss is no number.
        """
        train_config, seed, device = trainer.context.train_config, trainer.context.seed, images.x.device
        rng = trainer.begin(number)
        own = stream(seed, "mixmatch", number, device=device)
        size = min(train_config.batch_size, len(images))
        steps = -(-len(images) // size)
        kinds = _kinds(believed.cpu())
        some, rest = (_drawn(mask, steps * size, seed, name, number).to(device) for mask, name in kinds)
        total = torch.zeros((), device=device)
        for step in range(steps):
            here = slice(step * size, (step + 1) * size)
            x, u, v = (
                prepare(augment(images.x[index[here]], train_config.crop, train_config.flip, rng), train_config)
                for index in (some, rest, rest)
            )
            at = (number - 1) * steps + step
            weight = self.unlabelled * (at + 1) / (train_config.epochs * steps)
            with autocast(train_config, device):
                loss = self.loss(trainer, x, images.y[some[here]], u, v, weight, own)
            total += trainer.step(loss, learning_rate(train_config, at, train_config.epochs * steps))
        trainer.cost.passes += steps * size * (3 + 2 / 3) / len(images)  # three trained on, two looked at
        trainer.context.heartbeat()
        return trainer.finite(float(total) / steps, number)

    def loss(
        self, trainer: Trainer, x: Tensor, y: Tensor, u: Tensor, v: Tensor, weight: float, rng: torch.Generator
    ) -> Tensor:
        """The loss of a batch `x` with labels `y` and two views `u` and `v` of one without."""
        with torch.no_grad():
            p = (trainer.model(u).softmax(1) + trainer.model(v).softmax(1)) / 2
        guess = sharpen(p, self.temperature)
        everything = torch.cat([x, u, v])
        targets = torch.cat([F.one_hot(y, p.shape[1]).to(guess.dtype), guess, guess])
        other = torch.randperm(len(everything), generator=rng, device=x.device)
        share = beta(self.alpha, rng)
        share = torch.maximum(share, 1 - share)
        logits = trainer.model(mix(everything, everything[other], share))
        return terms(logits, mix(targets, targets[other], share), len(x), weight)


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T), normalised, of probabilities `p` (N, K)."""
    return (p.clamp_min(torch.finfo(p.dtype).tiny).log() / temperature).softmax(1)


def terms(logits: Tensor, targets: Tensor, labelled: int, weight: float) -> Tensor:
    """The cross-entropy to soft `targets` (N, K) of the first `labelled` rows of `logits` (N, K), in nats, plus
    `weight` times the mean squared difference of the probabilities of the others."""
    known = F.cross_entropy(logits[:labelled], targets[:labelled])
    return known + weight * (logits[labelled:].softmax(1) - targets[labelled:]).square().mean()


def _kinds(believed: Tensor) -> list[tuple[Tensor, str]]:
    """The believed images and the others, each all of them where there are none, with the name of their stream."""
    return [(mask if bool(mask.any()) else ~mask, name) for mask, name in ((believed, "believed"), (~believed, "rest"))]


def _drawn(mask: Tensor, count: int, seed: int, name: str, number: int) -> Tensor:
    """`count` of the places of `mask` (N,), in a random order that starts anew where it ends."""
    places, rng = mask.nonzero()[:, 0], stream(seed, "batches", name, number)
    rounds = -(-count // len(places))
    return torch.cat([places[torch.randperm(len(places), generator=rng)] for _ in range(rounds)])[:count]
