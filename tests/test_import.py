"""Importing raybd changes nothing of a process, and a sweep puts back what it changed."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raybd.execution.worker_environment import driver_environment, worker_variables

ROOT = Path(__file__).parent.parent
STATE = """
import gc, json, logging, os, sys, warnings

OWN = ("raybd", "analysis", "sweeps")
LOGGERS = ("mlflow", "alembic", "ray", "optuna", "sqlalchemy")

def state():
    loggers = logging.root.manager.loggerDict.items()
    return {
        "environment": {k: v for k, v in os.environ.items() if k != "_MLFLOW_TELEMETRY_SESSION_ID"},  # a random word
        "levels": {n: log.level for n, log in loggers if n.split(".")[0] in LOGGERS and getattr(log, "level", 0)},
        "warnings": [str(one) for one in warnings.filters],
        "frozen": gc.get_freeze_count(),
    }

def libraries():
    return [name for name in sys.modules if name.split(".")[0] not in OWN]
"""
EVERY_MODULE = """
import importlib, pkgutil

for package in OWN:
    for module in pkgutil.walk_packages([package], package + "."):
        importlib.import_module(module.name)
"""
SWEEP = """
from raybd.command_line.command import main
from sweeps.ib import PRESETS, summarise

args = "--inline --epochs 1 --widths 0.25 --weight-decays 5e-4 --poison-rates 0.1 --seeds 1 --attacks badnets --noise 0"
args += " --metrics stealth --results {0}/r --tracking-uri sqlite:///{0}/m.db"
with open(os.devnull, "w") as sys.stdout:
    assert main(PRESETS, summarise, args.split()) == 0
sys.stdout = sys.__stdout__
"""
REPORT = "\nprint(json.dumps([state(), libraries()]))"
ONLY_LIBRARIES = """
import contextlib, importlib

for name in json.loads(sys.stdin.read()):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


def said_by(code: str, read: Any = None) -> Any:
    """What a fresh process that runs `code` prints at its end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-c", STATE + code + REPORT],
        input=json.dumps(read),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_importing_every_module_leaves_the_process_as_its_libraries_do() -> None:
    own, libraries = said_by(EVERY_MODULE)
    theirs, loaded = said_by(ONLY_LIBRARIES, libraries)
    assert {"torch", "ray", "mlflow", "optuna"} <= set(loaded)
    assert own == theirs


@pytest.mark.long
def test_a_sweep_in_this_process_puts_back_what_it_changed(tmp_path: Path) -> None:
    own, libraries = said_by(SWEEP.format(tmp_path))
    theirs, _ = said_by(ONLY_LIBRARIES, libraries)
    assert own == theirs


def test_the_driver_s_environment_is_for_a_while_and_what_a_person_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AIR_NEW_OUTPUT", raising=False)
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "1")
    before, level = dict(os.environ), logging.getLogger("ray.tune").level
    with driver_environment():
        assert (os.environ["RAY_AIR_NEW_OUTPUT"], os.environ["RAY_CHDIR_TO_TRIAL_DIR"]) == ("0", "1")
        assert logging.getLogger("ray.tune").level == logging.CRITICAL
    assert (dict(os.environ), logging.getLogger("ray.tune").level) == (before, level)


def test_workers_get_the_driver_s_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    variables = worker_variables()
    assert (variables["MLFLOW_HTTP_REQUEST_TIMEOUT"], variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("20", "7")
    assert {"MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} <= set(variables)


def test_import_raybd_loads_no_heavy_library() -> None:
    _, libraries = said_by("import raybd\nassert raybd.__version__")
    assert not {"torch", "ray", "mlflow", "numpy", "pandas", "optuna", "matplotlib"} & set(libraries)
