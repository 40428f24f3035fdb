"""Figures of one network: what Neural Cleanse, STRIP, noise votes and smoothness find, without knowing a trigger.

STRIP and noise votes judge images, and there are no triggered ones: they are given clean test images with the smallest
trigger that Neural Cleanse inverts, as they are given those of the true trigger where it is known.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from raybd.attacks import Attack, NoAttack
from raybd.attacks.poisoning import PoisonSpec
from raybd.metrics.accuracy import accuracies
from raybd.metrics.detection.neural_cleanse import NeuralCleanse
from raybd.metrics.detection.noise_votes import NoiseVotes
from raybd.metrics.detection.strip import Strip
from raybd.metrics.subset import random_subset
from raybd.models.trigger_inversion import anomaly_index, apply_triggers
from raybd.seeds import forked_rng
from raybd.training import TrainConfig, predict
from raybd.types import Data, MetricContext
from raybd.utils.statistics import auroc

HIGH, LOW = 1, -1
# figure -> which side of the clean networks' is suspicious
JUDGED = {
    "neural_cleanse/index": HIGH,
    "neural_cleanse/smallest": LOW,
    "strip/inverted": HIGH,
    "noise_votes/inverted": HIGH,
    "smoothness/inverted": LOW,
}
MEANING = {
    "accuracy/clean": "share of clean test images that it gets right",
    "neural_cleanse/index": "anomaly index of the class with the smallest inverted trigger",
    "neural_cleanse/smallest": "pixels of the smallest inverted trigger (L1 norm of its mask)",
    "neural_cleanse/class": "the class that this trigger leads to",
    "strip/inverted": "AUROC of STRIP: images with that trigger against clean ones",
    "noise_votes/inverted": "AUROC of noise votes: the same",
    "smoothness/inverted": "entropy of votes around images with that trigger less that around clean ones, nats",
    "smoothness/clean": "entropy of votes around clean images, nats",
    "attack_success": "share of images with the known trigger that the attack's class is predicted for",
    "strip/triggered": "AUROC of STRIP: images with the known trigger against clean ones",
    "noise_votes/triggered": "AUROC of noise votes: the same",
    "smoothness/triggered": "entropy of votes around images with the known trigger less that around clean ones, nats",
}


@dataclass(frozen=True)
class Measures:
    """Settings of the measures, the same for the network and for the clean ones that it is compared with."""

    neural_cleanse: NeuralCleanse = field(default_factory=lambda: NeuralCleanse(runs=1))
    strip: Strip = field(default_factory=Strip)
    noise_votes: NoiseVotes = field(default_factory=lambda: NoiseVotes(draws=32))
    points: int = 100  # test images
    seed: int = 0


def figures(
    network: nn.Module, data: Data, measures: Measures, attack: Attack, gradients: bool = True
) -> dict[str, float]:
    """The figures of `network`, in evaluation mode, by the names of MEANING; without `gradients` those that need none.

    `attack` is NoAttack where no trigger is known.
    """
    context = _context(network, data, attack, measures.seed)
    found = {"accuracy/clean": accuracies(context)["accuracy/clean"]}
    with forked_rng(measures.seed, "inspection", device=data.test.x.device):
        if not isinstance(attack, NoAttack):
            rows = random_subset(context.measured.nonzero().flatten(), measures.points, measures.seed, "inspection")
            same = rows % len(data.test)
            stamped = context.triggered.x[rows].float() / 255
            found["attack_success"] = accuracies(context)["attack_success"]
            found |= _told_apart("triggered", context, measures, same, stamped)
        if gradients:
            found |= _inverted(context, measures)
        rows = random_subset(torch.arange(len(data.test)), measures.points, measures.seed, "inspection", "clean")
        clean = data.test.x[rows].float() / 255
        found["smoothness/clean"] = float(-measures.noise_votes.scores(network, clean, rows.tolist(), context).mean())
    return found


def _context(network: nn.Module, data: Data, attack: Attack, seed: int) -> MetricContext:
    """What metrics look at, of a network whose training is not known."""
    spec, how = PoisonSpec(attack, 0.0, seed).on(data.train, len(data.classes)), TrainConfig()
    triggered = data.test if isinstance(attack, NoAttack) else spec.triggered(data.test, len(data.classes))
    with forked_rng(seed, "prediction", device=data.test.x.device):
        clean, stamped = (predict(network, images.x, how) for images in (data.test, triggered))
    return MetricContext(
        model=network.eval(),
        data=data,
        poisoned=PoisonSpec(NoAttack(), 0.0, seed).poison(data.train, len(data.classes)),
        triggered=triggered,
        measured=spec.measured(data.test.y),
        clean_logits=clean,
        triggered_logits=stamped,
        seed=seed,
    )


def _inverted(context: MetricContext, measures: Measures) -> dict[str, float]:
    """What Neural Cleanse finds, and what its smallest trigger does to the other two."""
    search = measures.neural_cleanse.invert(context.model, context, 0)
    sizes, (masks, patterns) = search.sizes(), search.triggers()
    label = int(np.argmin(sizes))
    found = {"neural_cleanse/smallest": float(sizes[label]), "neural_cleanse/class": float(label)}
    index = float(anomaly_index(sizes)[label])
    found |= {} if np.isnan(index) else {"neural_cleanse/index": index}
    others = (context.data.test.y != label).nonzero().flatten()
    rows = random_subset(others, measures.points, measures.seed, "inspection", "inverted")
    clean = context.data.test.x[rows].float() / 255
    stamped = apply_triggers(clean, masks[label : label + 1], patterns[label : label + 1])[0]
    return found | _told_apart("inverted", context, measures, rows, stamped)


def _told_apart(
    name: str, context: MetricContext, measures: Measures, rows: Tensor, stamped: Tensor
) -> dict[str, float]:
    """How well STRIP and noise votes tell the images `stamped` from the test images `rows` that they were."""
    clean, ids = context.data.test.x[rows].float() / 255, rows.tolist()
    strip = [measures.strip.scores(context.model, x, ids, context) for x in (clean, stamped)]
    votes = [measures.noise_votes.scores(context.model, x, ids, context) for x in (clean, stamped)]
    return {
        f"strip/{name}": auroc(*strip),
        f"noise_votes/{name}": auroc(*votes),
        f"smoothness/{name}": float(votes[0].mean() - votes[1].mean()),
    }
