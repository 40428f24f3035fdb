"""`raybd model`: the trained network of a logged trial, written to a file."""

import os
from pathlib import Path
from typing import Annotated

import tyro

from raybd.errors import InputError

Name = Annotated[str, tyro.conf.Positional]


def write_model(
    run_id: Name,
    out: str,
    epoch: int | None = None,
    retrain: bool = False,
    tracking_uri: str | None = None,
    data_root: str | None = os.environ.get("RAYBD_DATA"),
    threads: int = 1,
) -> int:
    """Write the trained network of a trial to a file; exit status 1 if a retrained one has other numbers than logged.

    Args:
        run_id: MLflow's id of the trial's run.
        out: File to write: x.pt (its state_dict), x.pt2 (torch.export: needs no raybd to be loaded) or x.onnx.
        epoch: Of the networks that --keep-models all has kept, the one after this epoch; none: the last.
        retrain: Train it again from its logged settings, on the CPU, where none was kept.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        data_root: With --retrain: folder with the data sets.
        threads: With --retrain: CPU threads, as many as the trial had.
    """
    from raybd.models.network_files import check_format

    if retrain and epoch is not None:
        raise InputError("--retrain writes the network after the last epoch: leave --epoch out")
    path = check_format(out)
    equal = _retrained(run_id, path, tracking_uri, data_root, threads) if retrain else True
    if not retrain:
        _written(run_id, path, epoch, tracking_uri)
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB); {_use(path)}")
    return 0 if equal else 1


def _written(run_id: str, out: Path, epoch: int | None, tracking_uri: str | None) -> None:
    """Write the network that was kept to `out`."""
    from raybd.models.network_files import read_program, write_program
    from raybd.tracking.networks import PROGRAM, network_of_run

    with network_of_run(run_id, tracking_uri, epoch) as folder:
        if not (folder / PROGRAM).is_file():
            raise InputError(
                f"the network of run {run_id} could not be exported when it was kept, and is pickled: load it with "
                f"mlflow.pytorch.load_model('runs:/{run_id}/model') where its code can be imported"
            )
        write_program(read_program(folder / PROGRAM), out)


def _retrained(run_id: str, out: Path, tracking_uri: str | None, data_root: str | None, threads: int) -> bool:
    """Train the network again and write it to `out`; whether every number is as it was logged."""
    from raybd.models.network_files import export_network, write_program
    from raybd.tracking import load_record
    from raybd.trials.rerun import rerun

    found = rerun(load_record(run_id, tracking_uri), data_root, threads)
    print(found)
    write_program(export_network(found.network, found.data.train.shape), out)
    return not found.different


def _use(path: Path) -> str:
    """How the file is read."""
    read = {
        ".pt": f"network.load_state_dict(torch.load({str(path)!r}, weights_only=True))",
        ".pt2": f"torch.export.load({str(path)!r}).module()",
        ".onnx": f"onnxruntime.InferenceSession({str(path)!r})",
    }
    return f"images (N, C, H, W) in [0, 1] to logits: {read[path.suffix]}"
