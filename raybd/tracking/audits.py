"""Audits in MLflow: one run each, in an experiment of their own."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from raybd.errors import InputError
from raybd.tracking import sqlite
from raybd.tracking.client import absolute_uri, connect, one_line
from raybd.tracking.relocation import relocated

EXPERIMENT = "audits"
TEXT_LIMIT = 5000  # characters of a tag


def log_audit(
    source: str,
    facts: Mapping[str, object],
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    files: Iterable[Path],
    uri: str | None,
) -> str:
    """Log an audit of `source` as a finished run with its files as artifacts; the run's id.

    Raises:
        InputError: the store cannot be used.
    """
    uri = absolute_uri(uri)
    sqlite.prepare(uri)
    try:
        client = connect(uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        if known is None:
            id_ = client.create_experiment(EXPERIMENT, sqlite.artifacts_of(uri, EXPERIMENT))
        else:
            id_ = relocated(client, uri, known).experiment_id
        tags = {f"raybd.{name}": str(value)[:TEXT_LIMIT] for name, value in facts.items()}
        run = client.create_run(id_, run_name=f"audit {source}", tags={"raybd.kind": "audit", **tags}).info.run_id
        for name, value in params.items():
            client.log_param(run, name, value)
        for name, value in metrics.items():
            client.log_metric(run, name, value)
        for path in files:
            client.log_artifact(run, str(path))
        client.set_terminated(run)
    except Exception as error:
        raise InputError(f"the tracking store {uri} cannot be used: {one_line(error)}") from error
    return str(run)
