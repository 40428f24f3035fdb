"""Sweeps and maps of backdoor learning. The public names are loaded when they are first used: the import is light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raybd.utils.home import ensure_home

if TYPE_CHECKING:
    from analysis import DefendedRegionMap
    from raybd.attacks import ATTACKS
    from raybd.auditing import audit
    from raybd.data import DATASETS
    from raybd.data import load as load_data
    from raybd.defences import DEFENCES
    from raybd.errors import InputError
    from raybd.execution.sweep import sweep
    from raybd.inspection import inspect_model
    from raybd.metrics import METRICS
    from raybd.models import MODELS
    from raybd.tracking import load_runs
    from raybd.training import TrainConfig
    from raybd.trials.config import ModelConfig, TrialConfig
    from raybd.trials.run import run_trial
    from raybd.watching import watch
    from sweeps.resist import resist

ensure_home()
__version__ = "0.2.0"
__all__ = [
    "ATTACKS",
    "DATASETS",
    "DEFENCES",
    "METRICS",
    "MODELS",
    "DefendedRegionMap",
    "InputError",
    "ModelConfig",
    "TrainConfig",
    "TrialConfig",
    "audit",
    "inspect_model",
    "load_data",
    "load_runs",
    "resist",
    "run_trial",
    "sweep",
    "watch",
]
_HOMES = {  # name -> module that defines it, or module:attribute
    "ATTACKS": "raybd.attacks",
    "DATASETS": "raybd.data",
    "DEFENCES": "raybd.defences",
    "METRICS": "raybd.metrics",
    "MODELS": "raybd.models",
    "DefendedRegionMap": "analysis",
    "InputError": "raybd.errors",
    "ModelConfig": "raybd.trials.config",
    "TrainConfig": "raybd.training",
    "TrialConfig": "raybd.trials.config",
    "inspect_model": "raybd.inspection",
    "audit": "raybd.auditing",
    "load_data": "raybd.data:load",
    "load_runs": "raybd.tracking",
    "resist": "sweeps.resist",
    "run_trial": "raybd.trials.run",
    "sweep": "raybd.execution.sweep",
    "watch": "raybd.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raybd' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
