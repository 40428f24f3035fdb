"""Short ways for tests to run a plan, and a queue without an executor."""

from dataclasses import replace
from typing import Literal

from raybd.execution.plan import SweepPlan
from raybd.execution.resources import Resources
from raybd.execution.result import SweepResult
from raybd.execution.sweep import local_executor, ray_executor, run_sweep


def run_inline(plan: SweepPlan, figures: Literal["all", "first_seed", "none"] = "none") -> SweepResult:
    """Without figures unless they are asked for: they take a small trial half of its time."""
    drawing = replace(plan, figures=figures)
    return run_sweep(drawing, local_executor(drawing))


def run_on_ray(
    plan: SweepPlan, resources: Resources, address: str | None = None, stall_seconds: float = 3600.0
) -> SweepResult:
    return run_sweep(plan, ray_executor(plan, resources, address, stall_seconds))
