"""Settings of the whole process, changed for a while: environment variables, loggers, the garbage collector."""

import gc
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# MLflow's defaults block a trial for minutes when a server is away: what is on disk is uploaded later.
CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@contextmanager
def default_variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment variables `defaults` that were not set before."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def log_levels(levels: Mapping[str, int]) -> Iterator[None]:
    """Inside, the loggers of these names at these levels."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, no search for garbage in circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
