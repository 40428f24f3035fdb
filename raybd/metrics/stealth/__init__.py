"""Stealth of a trigger in the input, the features, the weights and the training: a vector, never one number."""

from raybd.metrics.stealth.full import StealthFull
from raybd.metrics.stealth.metric import Stealth

__all__ = ["Stealth", "StealthFull"]
