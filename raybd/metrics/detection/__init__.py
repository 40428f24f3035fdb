"""Detectors of a finished network or of triggered inputs, each with the clean twin as its null."""

from raybd.metrics.detection.neural_cleanse import NeuralCleanse
from raybd.metrics.detection.noise_votes import NoiseVotes
from raybd.metrics.detection.strip import Strip

__all__ = ["NeuralCleanse", "NoiseVotes", "Strip"]
