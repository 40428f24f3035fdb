"""Metrics by name: each maps what a trial shows at a probe to named numbers. A new one is a file and a line."""

from collections.abc import Callable

from raybd.metrics.accuracy import accuracies, class_accuracies, losses, validation_accuracy
from raybd.types import Evidence

METRICS: dict[str, Callable[[Evidence], dict[str, float]]] = {
    "accuracy": accuracies,
    "class_accuracy": class_accuracies,
    "loss": losses,
    "validation": validation_accuracy,
}
