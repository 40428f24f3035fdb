"""Data sets as inputs of runs, by which MLflow's table of runs can be filtered."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from raybd.tracking.client import one_line

DIGEST = 36  # characters that MLflow keeps
ATTEMPTS = 2  # two trials that are the first to name a data set collide in the store
log = logging.getLogger(__name__)


def log_data(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Name the data set of a trial's `params`, by its fingerprint, as the input of its run.

    A store that refuses is warned of and no more: the run has the same two values as parameters.
    """
    name, fingerprint = str(params.get("data", "")), str(params.get("fingerprint", ""))
    if not (name and fingerprint):
        return
    source = json.dumps({"data": name, "fingerprint": fingerprint})
    data = Dataset(name, fingerprint[:DIGEST], "raybd", source)
    inputs = [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            client.log_inputs(run_id, inputs)
            return
        except Exception as error:  # noqa: BLE001 - a store may raise anything
            if attempt == ATTEMPTS:
                log.warning("run %s has no data set as its input: %s", run_id, one_line(error))
