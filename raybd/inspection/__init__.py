"""Inspection of a network that is already trained: its figures beside those of clean networks."""

from raybd.inspection.inspect import inspect_model
from raybd.inspection.report import Inspection

__all__ = ["Inspection", "inspect_model"]
