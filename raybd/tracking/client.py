"""MLflow clients: connection, experiments by name, the runs of trials."""

import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from raybd.errors import InputError, public
from raybd.tracking import database, sqlite
from raybd.utils.process import CLIENT_ENVIRONMENT, collector_paused, default_variables, log_levels

if TYPE_CHECKING:  # MLflow takes over a second to import, and many a question needs none of it
    from mlflow import MlflowClient

PAGE = 2000  # runs; more at once take no less time and more memory


@contextmanager
def client_settings() -> Iterator[None]:
    """Inside, MLflow gives up soon on a server that is away, and logs warnings only; put back after it."""
    levels = {"mlflow": logging.WARNING, "alembic": logging.WARNING}
    with default_variables(CLIENT_ENVIRONMENT), log_levels(levels):
        yield


def absolute_uri(uri: str | None) -> str:
    """`uri`, or MLflow's own default, as an absolute URI: workers have other working folders than the driver.

    Raises:
        InputError: it is a folder, the store of older MLflows, which is MLflow's default where ./mlruns holds one; or a
            file's path.
    """
    uri = uri or _default_uri()
    if Path(uri).is_file():
        raise InputError(f"the tracking store {uri} is a file: a database in a file is written sqlite:///{uri}")
    if urlparse(uri).scheme in ("", "file") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise InputError(
            f"the tracking store {uri} is a folder, which MLflow no longer writes to: give --tracking-uri "
            "sqlite:///mlflow.db, or rename the folder, or turn it into a database with `mlflow migrate-filestore`"
        )
    path = sqlite.path_of(uri)
    return uri if path is None else f"sqlite:///{path}"


def _default_uri() -> str:
    """MLflow's own default: ./mlflow.db, unless a variable says otherwise or ./mlruns is a store of older MLflows."""
    if "mlflow" not in sys.modules:
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return uri
        folder = Path("mlruns")
        if not (folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())):
            return "sqlite:///mlflow.db"
    import mlflow

    return mlflow.get_tracking_uri()


def connect(uri: str) -> "MlflowClient":
    """The client of the tracking store at `uri`.

    Raises:
        InputError: it is a database that does not answer.
    """
    from mlflow import MlflowClient

    database.check(uri)
    # Many writers wait longer than SQLite's 5 seconds.
    with_timeout = f"{uri}?timeout={sqlite.LOCK_TIMEOUT:g}" if sqlite.path_of(uri) else uri
    return MlflowClient(tracking_uri=with_timeout)


def connect_to_read(uri: str) -> "MlflowClient":
    """The client of the tracking store at `uri`, of which it may be that it can only be read."""
    from mlflow import MlflowClient

    place = sqlite.readable(uri)
    return connect(uri) if place == uri else MlflowClient(tracking_uri=place)


def find_experiments(names: Sequence[str], tracking_uri: str | None) -> tuple["MlflowClient", dict[str, str]]:
    """The client of the store, and the ids of its experiments by name; all of `names` are among them.

    Raises:
        InputError: the store cannot be reached or an experiment is not in it.
    """
    uri = existing_store(tracking_uri)
    with reading(uri):
        client = connect_to_read(uri)
        known = {e.name: e.experiment_id for e in client.search_experiments()}
    check_known(names, known, uri)
    return client, known


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Inside, whatever the store at `uri` raises while it is read is an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the tracking store {uri} cannot be read: {one_line(error)}") from error


def check_known(names: Sequence[str], known: Collection[str], uri: str) -> None:
    """Raise an InputError if one of the experiments `names` is not among those `known` in the store at `uri`."""
    if missing := [name for name in names if name not in known]:
        raise InputError(f"no experiment {', '.join(missing)} in {uri} (there: {', '.join(sorted(known))})")


def existing_store(tracking_uri: str | None) -> str:
    """`absolute_uri` of a store that exists.

    Raises:
        InputError: it is a file that does not exist, or that is no database.
    """
    uri = absolute_uri(tracking_uri)
    path = sqlite.path_of(uri)
    if path is not None and not path.exists():
        raise InputError(f"there is no tracking store at {path}")
    if path is not None:
        sqlite.check_database(path)
    return uri


def sweep_run(client: "MlflowClient", experiment_id: str) -> Any | None:
    """The parent run of an experiment's sweep, if it has one."""
    found = client.search_runs([experiment_id], "tags.`raybd.kind` = 'sweep'", max_results=1)
    return found[0] if found else None


def trial_runs(client: "MlflowClient", experiment_id: str, status: str | None = None) -> list[Any]:
    """The runs of an experiment's trials, all or those of one status."""
    return runs_of_kind(client, experiment_id, "trial", status)


def runs_of_kind(client: "MlflowClient", experiment_id: str, kind: str, status: str | None = None) -> list[Any]:
    """The runs of an experiment whose tag raybd.kind is `kind`, the latest first, all or those of one status."""
    query = f"tags.`raybd.kind` = '{kind}'" + (f" and attributes.status = '{status}'" if status else "")
    runs: list[Any] = []
    token = None
    with collector_paused():  # it would look through all values that were read, again and again: half of the time
        while True:
            page = client.search_runs([experiment_id], query, max_results=PAGE, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs


def one_line(error: BaseException) -> str:
    """`error` as one line without passwords."""
    return public(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
