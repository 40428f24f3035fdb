"""Who reads a store: SQLite itself where the store is its file, else MLflow's client."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from raybd.tracking.client import check_known, connect_to_read, existing_store, reading, runs_of_kind
from raybd.tracking.store_file import StoreFile

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Reader(Protocol):
    """What is read of a store."""

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""

    def runs(self, experiment_id: str, kind: str) -> Sequence[Any]:
        """The runs of an experiment whose tag raybd.kind is `kind`, the latest first, deleted ones left out."""

    def logged(self, run_id: str, metric: str) -> list[int]:
        """When a metric of a run was logged, milliseconds since 1970."""


class ClientReader:
    """The runs of any store, by MLflow's client."""

    def __init__(self, client: "MlflowClient") -> None:
        self.client = client

    def experiments(self) -> dict[str, str]:
        """The id of every experiment that is not deleted, by name."""
        return {experiment.name: experiment.experiment_id for experiment in self.client.search_experiments()}

    def runs(self, experiment_id: str, kind: str) -> Sequence[Any]:
        """The runs of an experiment whose tag raybd.kind is `kind`, the latest first, deleted ones left out."""
        return runs_of_kind(self.client, experiment_id, kind)

    def logged(self, run_id: str, metric: str) -> list[int]:
        """When a metric of a run was logged, milliseconds since 1970."""
        return [one.timestamp for one in self.client.get_metric_history(run_id, metric)]


def find_sweeps(names: Sequence[str], tracking_uri: str | None) -> tuple[Reader, dict[str, str]]:
    """The reader of the store, and the ids of its experiments by name; all of `names` are among them.

    Raises:
        InputError: the store cannot be reached or an experiment is not in it.
    """
    uri = existing_store(tracking_uri)
    with reading(uri):
        reader: Reader = StoreFile.of(uri) or ClientReader(connect_to_read(uri))
        known = reader.experiments()
    check_known(names, known, uri)
    return reader, known
