"""Tags that runs are given after they have ended."""

from collections.abc import Mapping

from raybd.tracking.client import absolute_uri, client_settings, connect


@client_settings()
def tag_runs(tracking_uri: str | None, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Give each run its `tags`, by its id; one that has a tag already gets the new value.

    Raises:
        Exception: whatever the store raises.
    """
    from mlflow.entities import RunTag  # here: it takes MLflow's seconds

    client = connect(absolute_uri(tracking_uri))
    for run_id, given in tags.items():
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in given.items()])
