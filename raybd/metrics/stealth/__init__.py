"""Stealth of a trigger in the input, the features, the weights and the training: a vector, never one number."""

from raybd.metrics.stealth.basic import Stealth
from raybd.metrics.stealth.full import StealthFull

__all__ = ["Stealth", "StealthFull"]
