"""Networks of trials in MLflow's model format: written to a folder, and fetched from a run.

A network is an ExportedProgram (torch.export), which needs neither raybd nor the code of its class to be loaded, and
unpickles nothing; one that PyTorch cannot export is pickled whole.
"""

import copy
import inspect
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from torch import nn

import raybd
from raybd.errors import InputError
from raybd.models.network_files import quiet_export
from raybd.seeds import forked_rng
from raybd.tracking.artifact_files import local_folder
from raybd.tracking.client import client_settings, connect_to_read, existing_store, one_line
from raybd.utils.process import log_levels

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LAST, EARLIER = "model", "models/epoch_{}"  # artifacts of a run: the network after its last epoch, and after others
KEPT, EPOCHS = "raybd.keep_models", "raybd.kept_epochs"  # tags of a run with networks: last or all; which epochs
PROGRAM = Path("data", "model.pt2")  # in the folder of a network; a pickled one has data/model.pth
log = logging.getLogger(__name__)


def save_network(network: nn.Module, shape: tuple[int, int, int], classes: int, folder: Path) -> None:
    """Write `network`, which takes images (N, *shape) in [0, 1] to logits (N, classes), to the new `folder`.

    It is written in evaluation mode and for the CPU; `network` itself and all streams of random numbers stay as they
    were.

    Raises:
        Exception: of any kind, where it can neither be exported nor pickled, or the disk is full.
    """
    copied = copy.deepcopy(network).eval().cpu().requires_grad_(False)
    part = folder.with_name(f"{folder.name}.{uuid4().hex}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with forked_rng(0, "export", device=torch.device("cpu")), quiet_export():
            _save(copied, shape, classes, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _save(network: nn.Module, shape: tuple[int, int, int], classes: int, folder: Path) -> None:
    import mlflow.pytorch

    common: dict[str, Any] = {"signature": _signature(shape, classes)}
    needs = [f"torch=={torch.__version__.partition('+')[0]}"]
    try:
        mlflow.pytorch.save_model(network, str(folder), pip_requirements=needs, **_format("pt2", shape), **common)
    except Exception as error:  # noqa: BLE001 - a network of others raises what it likes
        log.warning("the network cannot be exported (%s): it is pickled, and needs its code to be loaded", _said(error))
        shutil.rmtree(folder, ignore_errors=True)
        needs.append(f"raybd=={raybd.__version__}")
        with log_levels({"mlflow": logging.ERROR}):  # its warning of pickles is the one above
            mlflow.pytorch.save_model(
                network, str(folder), pip_requirements=needs, **_format("pickle", shape), **common
            )


def _format(name: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """How MLflow's save_model is told the format, "pt2" or "pickle", with an example of two images for the first."""
    import mlflow.pytorch

    example = torch.zeros(2, *shape)
    if "serialization_format" in inspect.signature(mlflow.pytorch.save_model).parameters:
        return {"serialization_format": name, "input_example": example}
    exported = name == "pt2"  # of an MLflow before that setting
    return {"export_model": True, "input_example": example.numpy()} if exported else {}


def _said(error: Exception) -> str:
    """The error in one line of at most 200 characters."""
    return one_line(error)[:200]


def _signature(shape: tuple[int, int, int], classes: int) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype("float32")
    inputs, outputs = TensorSpec(kind, (-1, *shape), "images"), TensorSpec(kind, (-1, classes), "logits")
    return ModelSignature(Schema([inputs]), Schema([outputs]))


@contextmanager
def network_of_run(run_id: str, tracking_uri: str | None = None, epoch: int | None = None) -> Iterator[Path]:
    """Inside, the folder of the network of run `run_id` after `epoch` (None: its last), which may be a copy.

    Raises:
        InputError: there is no such run, or it has no such network.
    """
    with client_settings(), tempfile.TemporaryDirectory() as copied:
        uri = existing_store(tracking_uri)
        try:
            client = connect_to_read(uri)
            run = client.get_run(run_id)
            kept = [int(number) for number in run.data.tags.get(EPOCHS, "").split(",") if number]
            wanted = epoch or max(kept, default=0)
            found = _fetched(client, uri, run, artifact(wanted, kept), Path(copied)) if wanted in kept else None
        except Exception as error:
            raise InputError(f"no network can be read from run {run_id} in {uri}: {one_line(error)}") from error
        if found is None:
            raise InputError(_missing(run_id, epoch, kept))
        yield found


def artifact(epoch: int, kept: Collection[int]) -> str:
    """The name as an artifact of the network after `epoch`, of those `kept`."""
    return LAST if epoch == max(kept) else EARLIER.format(epoch)


def _fetched(client: Any, uri: str, run: Any, name: str, target: Path) -> Path:
    """The folder of the artifact `name`: where it lies, or a copy in `target`."""
    here = local_folder(uri, run.info.artifact_uri)
    return here / name if here is not None else Path(client.download_artifacts(run.info.run_id, name, str(target)))


def _missing(run_id: str, epoch: int | None, kept: Sequence[int]) -> str:
    if not kept:
        return (
            f"run {run_id} has no network: its trial ran without --keep-models; --retrain trains it again from its "
            "logged settings"
        )
    return f"run {run_id} has no network of epoch {epoch} (kept: {', '.join(map(str, kept))})"
