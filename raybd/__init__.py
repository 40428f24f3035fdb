"""Sweeps and maps of backdoor learning. Kept light: `analysis` imports it without torch."""

__version__ = "0.1.0"
