"""The metrics of one learner under one backdoor: its learning curve, its slopes and its rho-nu path."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybd.convex.deviation import Deviation, deviation
from raybd.convex.learner import Learner, LearningCurve
from raybd.convex.legacy import slope_legacy
from raybd.convex.slope import Slope, slope_exact
from raybd.convex.task import Array, BinaryTask
from raybd.utils.curves import crossing, log_area, log_slope


@dataclass(frozen=True, eq=False)
class CurveRecord:
    """Metrics by name (only those that are finite), and the curves that they were read from."""

    numbers: dict[str, float]
    arrays: dict[str, Array]


def curve_record(learner: Learner, task: BinaryTask, betas: Sequence[float]) -> CurveRecord:
    """Everything of one learner on one task with poison, at `betas` and at 0: one path, solved once."""
    grid = sorted({0.0, *map(float, betas)})
    path = learner.path(task, grid)
    curve = learner.curve_of(task, grid, path.decision_function(task.test_x), path.decision_function(task.triggered_x))
    rotation = deviation(path, grid)
    slope, fragile = _slope(learner, task)
    numbers = _slope_numbers(slope, fragile) | _legacy_numbers(learner, task) | _curve_numbers(curve, rotation)
    arrays = {name: getattr(curve, name) for name in LearningCurve.__dataclass_fields__}
    arrays |= {"rho": rotation.rho, "nu": rotation.nu, "contributions": slope.contributions}
    return CurveRecord({name: value for name, value in numbers.items() if np.isfinite(value)}, arrays)


def _slope(learner: Learner, task: BinaryTask) -> tuple[Slope, bool]:
    """The slope, and whether it hangs on so few support vectors that rounding may decide it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return slope_exact(learner, task), bool(caught)


def _slope_numbers(slope: Slope, fragile: bool) -> dict[str, float]:
    return {
        "curve/slope": slope.derivative,
        "curve/theta": slope.theta,
        "curve/log_slope": log_slope(slope.derivative),
        "curve/unique": float(not slope.reason),
        "curve/fragile": float(fragile),
    }


def _legacy_numbers(learner: Learner, task: BinaryTask) -> dict[str, float]:
    legacy = slope_legacy(learner, task)
    others = {f"curve/legacy/{name}": value for name, value in vars(legacy).items() if name != "mean"}
    return {"curve/slope_legacy": legacy.mean, "curve/theta_legacy": legacy.theta} | others


def _curve_numbers(curve: LearningCurve, rotation: Deviation) -> dict[str, float]:
    betas, success = curve.betas.tolist(), curve.attack_success.tolist()
    numbers = {
        "curve/secant": float(curve.backdoor_loss[-1] - curve.backdoor_loss[0]) / (betas[-1] - betas[0]),
        "curve/beta50": crossing(betas, success, log=True),
        "curve/area": log_area(betas, success),
    }
    columns = {
        "B": curve.backdoor_loss,
        "K": curve.clean_loss,
        "attack_success": curve.attack_success,
        "rho": rotation.rho,
        "nu": rotation.nu,
    }
    for name, values in columns.items():
        numbers |= {f"curve/{name}/beta_{b:g}": float(v) for b, v in zip(betas, values, strict=True)}
    return numbers
