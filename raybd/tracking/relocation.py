"""Artifacts of a store in a file that was moved or copied: beside that file, wherever it lies now."""

import logging

from mlflow import MlflowClient
from mlflow.entities import Experiment

from raybd.tracking import sqlite
from raybd.tracking.artifact_files import local_path
from raybd.tracking.client import connect
from raybd.utils.files import copy_folder

log = logging.getLogger(__name__)


def relocate_all(uri: str) -> None:
    """`relocated` for every experiment of the store at `uri`, if that is a file that exists and can be written to."""
    path = sqlite.path_of(uri)
    if path is None or not path.exists() or not sqlite.writable(path):
        return
    client = connect(uri)
    for experiment in client.search_experiments():
        relocated(client, uri, experiment)


def relocated(client: MlflowClient, uri: str, found: Experiment) -> Experiment:
    """`found`; of a store in a file that was moved or copied, with the present location of its artifacts.

    Of a file that was copied alone the artifacts are copied too: else what is written to the copy, or deleted from it,
    would be written and deleted where the first one has its artifacts.

    Raises:
        OSError: they cannot be copied.
    """
    path, own = sqlite.path_of(uri), sqlite.artifacts_of(uri, found.name)
    if path is None or own is None or _same_place(found.artifact_location, own):
        return found
    old, new = local_path(found.artifact_location), local_path(own)
    if not new.is_dir():
        if old.parts[-2:] != new.parts[-2:]:  # a place that somebody chose, or a store that is none of files
            return found
        if old.is_dir():
            log.warning("the store has been copied without its artifacts: they are copied from %s to %s", old, new)
            part = new.with_name(f".{new.name}.part")
            copy_folder(old, part)
            part.rename(new)
    log.warning("the store has been moved or copied: artifacts are now in %s", new)
    sqlite.relocate(path, found.artifact_location, own)
    return client.get_experiment(found.experiment_id)


def _same_place(one: str, other: str) -> bool:
    return one == other or local_path(one).resolve() == local_path(other).resolve()
