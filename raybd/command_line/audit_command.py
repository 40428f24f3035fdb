"""The command `raybd audit`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from raybd.auditing import Audit

Source = Annotated[str, tyro.conf.Positional]


def audit_data(
    data: Source,
    clean: str | None = None,
    truth: str | None = None,
    out: str = "audit",
    export: Literal["none", "links", "copies", "npz"] = "none",
    resize: int = 0,
    model: str = "small_cnn",
    width: float = 0.5,
    epochs: int = 30,
    pretrain_epochs: int = 10,
    seed: int = 0,
    false_alarm: float = 0.05,
    data_root: str | None = os.environ.get("RAYBD_DATA"),
    tracking_uri: str | None = None,
) -> int:
    """Rank the images of a data set that is suspected by how much they look planted; no truth is known, none claimed.

    Args:
        data: folder:PATH, npz:PATH, or another data set as sweeps name it.
        clean: Data set of the same classes that is known to be clean: what is normal is measured on it. None: on the
            suspected set without its suspects.
        truth: Answer key, if one was planted: a file with an image's name or number a line.
        out: Folder for ranking.csv, suspects.png, clean_subset.txt and verdict.txt.
        export: Make the proposed clean subset in that folder, of links to the files, copies, or as .npz.
        resize: Side to which images are resized, in pixels; 0: as they are.
        model: Network that is trained on the images, and without labels.
        width: Its width.
        epochs: Epochs of its training.
        pretrain_epochs: Epochs of the training without labels.
        seed: Of all random numbers.
        false_alarm: Level at which a clean set is to be called planted.
        data_root: Folder with the data sets.
        tracking_uri: MLflow tracking URI to log one run to; none: nothing is logged.
    """
    from raybd.auditing import AuditSettings, audit
    from raybd.auditing.output import check_output, save
    from raybd.data.image_names import named_images
    from raybd.utils.files import expanded

    chosen = AuditSettings(
        model=model, width=width, epochs=epochs, pretrain_epochs=pretrain_epochs, seed=seed, false_alarm=false_alarm
    )
    named = named_images(data, data_root, resize)
    check_output(named, expanded(out), export)
    print(f"auditing {len(named.names)} images of {len(named.classes)} classes", flush=True)
    found = audit(named, clean=clean, truth=truth, data_root=data_root, resize=resize, **asdict(chosen))
    files = save(found, expanded(out), export)
    print(found)
    print(f"in {expanded(out)}: {', '.join(path.name for path in files)}")
    if tracking_uri is not None:
        print(f"MLflow run: {_log(data, found, asdict(chosen), files, tracking_uri)}")
    return 0


def _log(source: str, found: "Audit", settings: dict[str, object], files: list[Path], uri: str) -> str:
    from raybd.tracking.audits import log_audit
    from raybd.tracking.client import client_settings

    numbers = {f"audit/{name}": value for name, value in found.truth.items()}
    numbers |= {"audit/planted": float(found.found.sum()), "audit/left_out": float(found.left_out.sum())}
    told = {"verdict": found.verdict, "null": found.verdict.null, "audited": source}
    with client_settings():
        return log_audit(source, told, settings, numbers, files, uri)
