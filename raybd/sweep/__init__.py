"""Sweeps: lists of trials, run on Ray or in this process."""

import os

# Read when Ray is imported: trials keep the driver's folder, records are raybd's own, and nothing phones home.
for _name, _value in {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0, the new one is not
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}.items():
    os.environ.setdefault(_name, _value)
