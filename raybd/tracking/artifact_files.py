"""Artifacts of runs as files, found where they are now: a store's folder may have been moved or copied with them."""

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from raybd.tracking import sqlite


def read_artifact(tracking_uri: str, run: Any, name: str) -> str:
    """The text of the artifact `name` of a run.

    Raises:
        Exception: as `read_bytes`.
    """
    return read_bytes(tracking_uri, run, name).decode()


def read_bytes(tracking_uri: str, run: Any, name: str) -> bytes:
    """The content of the artifact `name` of a run.

    Raises:
        Exception: whatever the store raises; OSError where a local one does not have it.
    """
    folder = local_folder(tracking_uri, run.info.artifact_uri)
    if folder is not None:
        return (folder / name).read_bytes()
    import mlflow  # takes over a second to import, and artifacts on a disk need none

    with tempfile.TemporaryDirectory() as fetched:
        uri = f"{run.info.artifact_uri}/{name}"
        path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=fetched, tracking_uri=tracking_uri)
        return Path(path).read_bytes()


def artifact_names(tracking_uri: str, run: Any, folder: str, client: Any) -> set[str]:
    """The artifacts of a run in `folder`, as `read_artifact` takes them; `client` knows those on no disk."""
    here = local_folder(tracking_uri, run.info.artifact_uri)
    if here is not None:
        return {f"{folder}/{path.name}" for path in (here / folder).glob("*")}
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


def local_folder(tracking_uri: str, artifact_uri: str) -> Path | None:
    """The folder of a run's artifacts on this machine; None if they are not on a disk.

    Of a store in a file it is the one beside that file where there is one, whatever path is written in the store.
    """
    if urlparse(artifact_uri).scheme not in ("", "file"):
        return None
    written, store = local_path(artifact_uri), sqlite.path_of(tracking_uri)
    if store is None:
        return written
    beside = sqlite.artifacts_beside(store) / Path(*written.parts[-3:])  # experiment, run, "artifacts"
    return beside if beside.is_dir() else written


def local_path(uri: str) -> Path:
    """The path of a file's URI, or of a path."""
    return Path(url2pathname(urlparse(uri).path))
