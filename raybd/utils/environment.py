"""The environment of a trial: library versions, commit, machine."""

import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path

import torch

import raybd

COMMIT = "RAYBD_COMMIT"  # tells a worker of a cluster, whose copy of raybd is no checkout


@cache
def environment(device: str = "cpu") -> dict[str, str]:
    """Library versions, commit and machine, with the GPU of a trial on the `device` "cuda": the driver is asked for no
    other."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "mlflow")}
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    machine = {"python": platform.python_version(), "host": socket.gethostname(), "gpu": gpu, "cpu": platform.machine()}
    return {"raybd": raybd.__version__} | versions | machine | {"commit": _commit()}


def _commit() -> str:
    """The commit of the checkout that raybd runs from, with a + where files differ from it; "" outside a checkout."""
    if commit := os.environ.get(COMMIT):
        return commit
    where = str(Path(__file__).parent)
    command = ["git", "-C", where, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return done.stdout.strip()
