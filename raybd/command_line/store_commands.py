"""Commands of `raybd` on the sweeps of a store: list, rm, mv, export."""

import json as json_format
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from raybd.errors import InputError
from raybd.trials.records import SweepFolder, check_name

Name = Annotated[str, tyro.conf.Positional]
RESULTS = os.environ.get("RAYBD_RESULTS", "results")


def list_sweeps(tracking_uri: str | None = None, json: bool = False) -> int:
    """List the sweeps of a tracking store: name, what it asks, trials, and when it was active last.

    Args:
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        json: Print JSON.
    """
    from raybd.tracking import sweeps

    found = sweeps.list_sweeps(tracking_uri)
    if json:
        print(json_format.dumps([asdict(entry) for entry in found], indent=1))
        return 0
    for entry in found:
        active = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_active / 1000))
        print(
            f"{entry.name}  {entry.finished} of {entry.trials} trials finished, last active {active}  {entry.question}"
        )
    return 0


def remove_sweep(name: Name, tracking_uri: str | None = None, results: str = RESULTS, yes: bool = False) -> int:
    """Delete a sweep for good, in the tracking store and on this disk; its name is free again.

    Args:
        name: Name of the sweep.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        results: Folder with the sweep's trials.
        yes: Do not ask.
    """
    from raybd.tracking import sweeps

    stored, folder = _parts(name, tracking_uri, results)
    _confirm([f"deletes for good: {part}" for part in _described(name, stored, folder)], yes)
    with _locked(folder):
        if stored:
            sweeps.delete_sweep(name, tracking_uri)
        if folder is not None:
            shutil.rmtree(folder.path)
    return 0


def move_sweep(old: Name, new: Name, tracking_uri: str | None = None, results: str = RESULTS, yes: bool = False) -> int:
    """Rename a sweep, in the tracking store and on this disk.

    Args:
        old: Its name.
        new: Its new name.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        results: Folder with the sweep's trials.
        yes: Do not ask.
    """
    from raybd.execution.search import rename_study
    from raybd.tracking import sweeps

    if problems := check_name(new):
        raise InputError(problems)
    stored, folder = _parts(old, tracking_uri, results)
    if SweepFolder.find(results, new) is not None:
        raise InputError(f"{Path(results).absolute() / new} exists: choose another name")
    _confirm([f"renames to {new}: {part}" for part in _described(old, stored, folder)], yes)
    with _locked(folder):
        if stored:
            sweeps.rename_sweep(old, new, tracking_uri)
        if folder is not None:
            rename_study(folder.path.rename(folder.path.with_name(new)), old, new)
    return 0


def export_sweep(name: Name, out: str, tracking_uri: str | None = None, results: str = RESULTS) -> int:
    """Copy a sweep to a folder, with its store, artifacts and trials: it opens wherever the folder is taken.

    Args:
        name: Name of the sweep.
        out: Folder to write to, new or empty.
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        results: Folder with the sweep's trials.
    """
    from raybd.tracking.export import export_sweep

    folder = SweepFolder.find(results, name)
    try:
        runs = export_sweep(name, Path(out), tracking_uri, folder.path if folder is not None else None)
    except OSError as error:
        raise InputError(f"{name!r} cannot be copied to {out}: {error}") from error
    print(f"{runs} runs copied; in {Path(out).absolute()}: raybd map {name} show")
    return 0


def _locked(folder: SweepFolder | None) -> AbstractContextManager[None]:
    """The lock of the sweep's folder, before anything of it is changed: no driver is at work on it.

    Raises:
        InputError: one is, or the folder can be neither deleted nor renamed.
    """
    if folder is None:
        return nullcontext()
    if not os.access(folder.path.parent, os.W_OK):
        raise InputError(f"the results folder {folder.path.parent} cannot be written to")
    return folder.locked()


def _parts(name: str, tracking_uri: str | None, results: str) -> tuple[bool, SweepFolder | None]:
    """Whether the store has the sweep, and its folder on this disk.

    Raises:
        InputError: neither is there.
    """
    from raybd.tracking import sweeps

    stored, folder = sweeps.has_sweep(name, tracking_uri), SweepFolder.find(results, name)
    if not stored and folder is None:
        known = ", ".join(entry.name for entry in sweeps.list_sweeps(tracking_uri)) or "none"
        raise InputError(f"there is no sweep {name!r} in the store (there: {known}) nor in {Path(results).absolute()}")
    return stored, folder


def _described(name: str, stored: bool, folder: SweepFolder | None) -> list[str]:
    parts = [f"the experiment {name!r} with its runs and artifacts"] * stored
    if folder is not None:
        trials = sum(1 for _ in folder.path.glob("trials/*"))
        parts.append(f"{folder.path}, with {trials} trials")
    return parts


def _confirm(lines: list[str], yes: bool) -> None:
    """Print what goes, and ask unless `yes`.

    Raises:
        InputError: the answer is no, or nobody can be asked.
    """
    print("\n".join(lines), flush=True)
    if yes:
        return
    if not sys.stdin.isatty() or input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InputError("nothing was changed: answer y, or give --yes")
