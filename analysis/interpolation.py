"""Verdicts between measured cells: read off a surrogate, never beyond its hull, never across categories."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.cells import Cell
from analysis.surrogate import Bands, Surrogate
from analysis.values import Value, format_value
from analysis.verdict import UNKNOWN_DIFFERENCE, Estimate, Status, Verdict

Floats = NDArray[np.float64]


def interpolate_verdict(surrogate: Surrogate, setting: Mapping[str, Value], named: Mapping[str, Value]) -> Verdict:
    """The verdict at `setting`, a point within the hull of the surrogate's cells.

    Args:
        surrogate: through the cells that differ from the setting in numeric axes only.
        setting: the point, by full names.
        named: the point, by short names.
    """
    point = np.array([surrogate.coordinates(setting)])
    bands = surrogate.bands(point)
    over = [cell for cell in surrogate.overruling if surrogate.beside(point, cell)[0]]
    failing = [cell for cell in (*surrogate.cells, *surrogate.failed) if cell.verdict.failures]
    status, why = _status(bands, over)
    nearest = surrogate.nearest(point[0])[: 2 ** len(surrogate.axes)]
    return Verdict(
        setting=named,
        status=status,
        reason=f"interpolated over {len(surrogate.cells)} cells: {why}; {_leave_one_out(surrogate)}",
        probability=np.nan if np.isnan(surrogate.min_accuracy) else surrogate.probability(point),
        clean_accuracy=Estimate(*bands.accuracy[:, 0].tolist()),
        attack_success=Estimate(*bands.success[:, 0].tolist()),
        accuracy_loss=_less(surrogate.reference, bands.accuracy[:, 0]),
        attack_success_excess=Estimate(*(bands.success[:, 0] - surrogate.baselines(point)[0]).tolist()),
        seeds=min(len(cell.seeds) for cell in nearest),
        evidence=tuple(run for cell in nearest for run in cell.verdict.evidence),
        failures=tuple(f for cell in failing if surrogate.beside(point, cell)[0] for f in cell.verdict.failures),
        interpolated=True,
        above_twins=all(cell.verdict.above_twins for cell in nearest),
    )


def _less(reference: float, band: Floats) -> Estimate:
    """How far a mean and its band (3,) lie under a reference; unknown without one."""
    if np.isnan(reference):
        return UNKNOWN_DIFFERENCE
    value, low, high = (reference - band).tolist()
    return Estimate(value, high, low)


def _status(bands: Bands, over: Sequence[Cell]) -> tuple[Status, str]:
    if np.isnan(bands.min_accuracy):
        return "uncertain", "there is no reference accuracy"
    if over:
        values = ", ".join(format_value(v) for v in over[0].verdict.setting.values())
        return "uncertain", f"the surface passes over the {over[0].verdict.status} cell beside it, at {values}"
    if bands.surely_defended[0]:
        return "defended", "both bands are clear of the thresholds"
    if bands.success[1, 0] > bands.max_attack_success[0]:
        return "backdoored", "the band of attack success is beyond its threshold"
    if bands.surely_undefended[0] and bands.success[2, 0] <= bands.max_attack_success[0]:
        return "kept_out", "the band of attack success is within its threshold, that of clean accuracy beyond"
    return "uncertain", "a band holds its threshold"


def _leave_one_out(surrogate: Surrogate) -> str:
    success, accuracy = surrogate.errors
    return (
        f"each cell left out in turn, the others miss its attack success by {100 * success:.1f} points, "
        f"its clean accuracy by {100 * accuracy:.1f} (mean)"
    )
