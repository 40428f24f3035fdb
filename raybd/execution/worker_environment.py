"""Environment variables: of Ray's workers, for as long as they live, and of the driver, while it uses Ray."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from raybd.training.determinism import CUBLAS_ENVIRONMENT
from raybd.utils.process import CLIENT_ENVIRONMENT, default_variables, log_levels

# Read by glibc when a process starts: it keeps the memory of one step for the next instead of asking for it anew
# (small_cnn on 28x28 images: 1.1 to 1.3 times as fast), and keeps it in one place: Tune runs each trial in a thread of
# its own, and what every such thread kept apart grew by 3 MiB a trial.
KEPT = 2**30  # bytes
MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(KEPT),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT),
    "MALLOC_ARENA_MAX": "1",
}
KEEP_VISIBLE_DEVICES = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # without GPUs too: later Rays' own default
WORKER_ENVIRONMENT = (
    MALLOC_ENVIRONMENT
    | CUBLAS_ENVIRONMENT
    | CLIENT_ENVIRONMENT
    | KEEP_VISIBLE_DEVICES
    | {"MLFLOW_LOGGING_LEVEL": "WARNING"}
)
DRIVER_ENVIRONMENT = KEEP_VISIBLE_DEVICES | {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials keep the driver's folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0, the new one is not
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are raybd's own
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
# A trial that failed is told in the sweep's own summary.
DRIVER_LOG_LEVELS = {"ray": logging.ERROR, "ray.tune": logging.CRITICAL}


def worker_variables() -> dict[str, str]:
    """The variables of Ray's workers, with the driver's own values of those that it has set."""
    return {name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()}


@contextmanager
def driver_environment() -> Iterator[None]:
    """Inside, the variables that Ray and Tune read in the driver, and only their errors logged; put back after it."""
    with default_variables(DRIVER_ENVIRONMENT), log_levels(DRIVER_LOG_LEVELS):
        yield
