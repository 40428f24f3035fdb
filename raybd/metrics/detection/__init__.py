"""Detectors of a finished network or of triggered inputs, each with the clean twin as its null."""

from raybd.metrics.detection.beatrix import Beatrix
from raybd.metrics.detection.ibd_psc import IbdPsc
from raybd.metrics.detection.neural_cleanse import NeuralCleanse
from raybd.metrics.detection.noise_votes import NoiseVotes
from raybd.metrics.detection.scale_up import ScaleUp
from raybd.metrics.detection.strip import Strip
from raybd.metrics.detection.ted import Ted

__all__ = ["Beatrix", "IbdPsc", "NeuralCleanse", "NoiseVotes", "ScaleUp", "Strip", "Ted"]
