"""Verdicts between measured cells: read off a surrogate, never beyond its hull, never across categories."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.cells import Cell
from analysis.surrogate import Bands, Surrogate
from analysis.values import Value, format_value
from analysis.verdict import Estimate, Status, Verdict


def interpolate_verdict(
    surrogate: Surrogate, setting: Mapping[str, Value], named: Mapping[str, Value], beside: Sequence[Cell]
) -> Verdict:
    """The verdict at `setting`, a point within the hull of the surrogate's cells.

    Args:
        surrogate: through the cells that differ from the setting in numeric axes only.
        setting: the point, by full names.
        named: the point, by short names.
        beside: all cells around the point, measured or not: where the surrogate is smooth across a hole at a corner of
            the box around the point, the verdict is uncertain.
    """
    point = np.array([surrogate.coordinates(setting)])
    bands = surrogate.bands(point)
    status, why = _status(bands)
    corners = surrogate.corners(point[0], beside)
    if contradicting := [c for c in corners if status != "uncertain" and surrogate.contradicts(c)]:
        hole = contradicting[0].verdict
        values = ", ".join(format_value(v) for v in hole.setting.values())
        status, why = "uncertain", f"the surface passes over the {hole.status} cell beside it, at {values}"
    nearest = surrogate.nearest(point[0])[: 2 ** len(surrogate.axes)]
    return Verdict(
        setting=named,
        status=status,
        reason=f"interpolated over {len(surrogate.cells)} cells: {why}; {_leave_one_out(surrogate)}",
        probability=np.nan if np.isnan(surrogate.min_accuracy) else surrogate.probability(point),
        clean_accuracy=Estimate(*bands.accuracy[:, 0].tolist()),
        attack_success=Estimate(*bands.success[:, 0].tolist()),
        seeds=min(len(cell.seeds) for cell in nearest),
        evidence=tuple(run for cell in nearest for run in cell.verdict.evidence),
        failures=tuple(failure for cell in corners for failure in cell.verdict.failures),
        interpolated=True,
    )


def _status(bands: Bands) -> tuple[Status, str]:
    if np.isnan(bands.min_accuracy):
        return "uncertain", "there is no reference accuracy"
    if bands.surely_defended[0]:
        return "defended", "both bands are clear of the thresholds"
    if bands.success[1, 0] > bands.max_attack_success:
        return "backdoored", "the band of attack success is beyond its threshold"
    if bands.surely_undefended[0] and bands.success[2, 0] <= bands.max_attack_success:
        return "kept_out", "the band of attack success is within its threshold, that of clean accuracy beyond"
    return "uncertain", "a band holds its threshold"


def _leave_one_out(surrogate: Surrogate) -> str:
    success, accuracy = surrogate.errors
    return (
        f"each cell left out in turn, the others miss its attack success by {100 * success:.1f} points, "
        f"its clean accuracy by {100 * accuracy:.1f} (mean)"
    )
