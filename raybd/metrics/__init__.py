"""Metrics by name. A new one is a file and a line. Every trial has accuracy, and the others that it asks for."""

from raybd.metrics.accuracy import Accuracy
from raybd.metrics.base import Metric
from raybd.metrics.defender import Defender
from raybd.metrics.detection import Beatrix, IbdPsc, NeuralCleanse, NoiseVotes, ScaleUp, Strip, Ted
from raybd.metrics.learning_curves import LearningCurves
from raybd.metrics.mutual_information import MutualInformation
from raybd.metrics.pictures import Pictures
from raybd.metrics.smoothness import Smoothness
from raybd.metrics.stealth import Stealth, StealthFull
from raybd.metrics.stealthiness import Stealthiness
from raybd.plugins import Table

_METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "beatrix": Beatrix,
    "defender": Defender,
    "ibd_psc": IbdPsc,
    "learning_curves": LearningCurves,
    "mutual_information": MutualInformation,
    "neural_cleanse": NeuralCleanse,
    "noise_votes": NoiseVotes,
    "pictures": Pictures,
    "scale_up": ScaleUp,
    "smoothness": Smoothness,
    "stealth": Stealth,
    "stealth_full": StealthFull,
    "stealthiness": Stealthiness,
    "strip": Strip,
    "ted": Ted,
}
METRICS = Table("metric", Metric, _METRICS)  # type: ignore[type-abstract]

__all__ = ["METRICS", "Accuracy", "Metric"]
