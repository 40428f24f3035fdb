"""Verdicts as tags of runs: the status of each trial's cell, so that MLflow's table of runs shows it."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raybd.tracking.client import existing_store, one_line
from raybd.tracking.landing import VERDICT
from raybd.tracking.tagging import tag_runs

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def tag_verdicts(runs: "pd.DataFrame", verdicts: Mapping[str, str], tracking_uri: str | None = None) -> int:
    """Give each run of `verdicts` (run id -> verdict) its tag; how many had another one or none.

    Args:
        runs: of the sweep, as `raybd.tracking.load_runs` gives them; verdicts of other runs are left out.
        verdicts: by run id.
        tracking_uri: of the store; None: MLflow's own default.

    A store that cannot be written to is warned of and no more: the map tells the same.

    Raises:
        InputError: there is no such store.
    """
    uri, column = existing_store(tracking_uri), f"tags.{VERDICT}"
    has = dict(zip(runs["run_id"], runs[column] if column in runs else [None] * len(runs), strict=True))
    changed = {run: verdict for run, verdict in verdicts.items() if run in has and has[run] != verdict}
    try:
        tag_runs(uri, {run: {VERDICT: verdict} for run, verdict in changed.items()})
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        log.warning("the verdicts are not in the tracking store: %s", one_line(error))
        return 0
    return len(changed)
