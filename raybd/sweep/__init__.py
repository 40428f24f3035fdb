"""Sweeps: lists of trials, run on Ray or in this process."""

from raybd.sweep.driver import Plan, plan, run_inline, run_on_ray
from raybd.sweep.progress import SweepResult

__all__ = ["Plan", "SweepResult", "plan", "run_inline", "run_on_ray"]
