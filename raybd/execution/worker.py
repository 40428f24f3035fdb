"""The Tune trainable: runs one attempt at a trial in a worker and reports its outcome."""

import gc
import json
import os
from dataclasses import replace
from typing import Any

import ray
import torch
from ray import tune

from raybd.errors import InputError
from raybd.execution import memory
from raybd.execution.data_parallel import run_on_ranks
from raybd.execution.executor import RunTrial
from raybd.execution.object_store import unpack_config, unpack_data
from raybd.execution.outcome import Outcome
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.stop_file import supervised
from raybd.plugins.own import use_names
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED

SCORE = "score"  # Tune requires a metric in every report; it decides nothing


def run_in_worker(
    point: dict[str, Any],
    configs: dict[str, Any],
    shared: dict[str, list[Any]],
    setup: TrialSetup,
    function: RunTrial,
    resources: Resources,
) -> None:
    """Run one attempt and report its outcome; a retryable failure is raised afterwards, so that Tune retries."""
    key = point["key"]
    text = point.get("config")
    use_names(dict(setup.own_names))
    try:
        config = TrialConfig.from_dict(json.loads(text)) if text else unpack_config(configs, key)
    except InputError as error:  # this worker lacks a method of one's own
        tune.report({SCORE: 0.0, "outcome": _refused(key, error).to_json()})
        return
    if setup.device == "cpu":
        memory.stay_on_cpu()
    if point.get("alone"):
        setup = replace(setup, tight=True)
    if config.train.workers > 1:
        outcome = run_on_ranks(config, shared[config.image_set][0], setup, resources, point["mark"])
    else:
        with supervised(setup, key) as heartbeat:
            outcome = function(config, unpack_data(ray.get(shared[config.image_set][0])), setup, heartbeat)
    memory.freeze()
    if setup.device == "cuda":
        clear_gpu(outcome)
    tune.report({SCORE: 0.0, "outcome": outcome.to_json()})
    if outcome.retryable:
        raise TrialFailedError(outcome.error)


def _refused(key: str, error: InputError) -> Outcome:
    """The outcome of a trial that this worker cannot even name: another attempt would end the same way."""
    text = f"a worker cannot make the trial: {error}"
    return Outcome(key, key, FAILED, error=text, permanent=True, uploaded=False, died=True)


class TrialFailedError(RuntimeError):
    """Raised for a failed attempt that Tune shall retry."""


def clear_gpu(outcome: Outcome) -> None:
    """Free the GPU's memory for the next trial; exit if an error has broken the process's CUDA context.

    Memory that ran out breaks nothing, whatever CUDA calls it, and must be reported.
    """
    if "CUDA error" in outcome.error and not outcome.out_of_memory:
        os._exit(1)
    gc.collect()
    torch.cuda.empty_cache()
