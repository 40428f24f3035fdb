"""Metrics by name. A new one is a file and a line. Every trial has accuracy, and the others that it asks for."""

from raybd.metrics.accuracy import Accuracy
from raybd.metrics.base import Metric

METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
}

__all__ = ["METRICS", "Accuracy", "Metric"]
