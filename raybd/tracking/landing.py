"""The page of a sweep in MLflow's UI: its runs as a table of attack, settings, accuracy, attack success and verdict.

MLflow 3.17 has no default columns that a store may choose. It has shared views, kept as tags of the experiment, which a
link names; a view tells the filter, the order and the columns. Runs are not folded under their parent where the order
is by a parameter. Without the link's `workflowType` the UI opens on its pages for language models.
"""

import json
from collections.abc import Iterable

from raybd.utils.metric_names import ACCURACY, ATTACK_SUCCESS

VIEW = "raybd"  # name of the shared view
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # of the experiment
VERDICT = "raybd.verdict"  # tag of a trial's run: the verdict on its cell
MOST_COLUMNS = 12  # parameters in the table: MLflow cuts a tag of an experiment at 5,000 characters
FIRST, LAST = ("attack.name", "poison_rate"), ("defence.name",)


def runs_path(experiment_id: str) -> str:
    """The path of a sweep's page of runs behind the address of MLflow's UI."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def view_of(varying: Iterable[str]) -> str:
    """The shared view, as the value of VIEW_TAG: attack and rate, the parameters that vary, what came of it.

    Args:
        varying: names of the parameters in which trials differ.
    """
    others = [name for name in varying if name not in (*FIRST, *LAST, "seed") and not name.startswith("attack.")]
    params = [f"params.`{name}`" for name in (*FIRST, *others[:MOST_COLUMNS], *LAST)]
    columns = [*params, f"metrics.`{ACCURACY}`", f"metrics.`{ATTACK_SUCCESS}`", f"tags.`{VERDICT}`", "params.`seed`"]
    order = {"orderByKey": params[0], "orderByAsc": True}
    return json.dumps(
        {"searchFilter": "tags.`raybd.kind` = 'trial'", **order, "selectedColumns": columns, "columnOrder": columns}
    )
