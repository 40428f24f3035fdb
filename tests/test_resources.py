"""What a sweep takes of a cluster or a machine: made clusters, made GPUs."""

import os
from typing import Any

import pytest
import ray
import torch

from raybd.command_line.dry_run import print_trials
from raybd.command_line.estimate import Estimate
from raybd.command_line.grid import expand
from raybd.command_line.options import SweepOptions
from raybd.errors import InputError
from raybd.execution import memory, ray_cluster
from raybd.execution.ray_cluster import check_resources, wait_for
from raybd.execution.resources import Resources
from raybd.utils.environment import environment


class Cluster:
    """Nodes of a made Ray, of which `later` come when the autoscaler has been looked at twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: list[dict[str, float]], later: list[dict[str, float]]):
        self.now, self.later, self.looks = now, later, 0
        self.asked: list[Any] = []
        monkeypatch.setattr(ray, "nodes", self.nodes)
        monkeypatch.setattr("ray.autoscaler.sdk.request_resources", self.request)
        monkeypatch.setattr(ray_cluster, "POLL_SECONDS", 0.01)

    def request(self, bundles: list[Any]) -> None:
        self.asked.append(bundles)

    def nodes(self) -> list[dict[str, Any]]:
        self.looks += bool(self.asked)
        there = self.now + (self.later if self.looks > 2 else [])
        return [{"Alive": True, "Resources": node, "NodeManagerAddress": str(i)} for i, node in enumerate(there)]


HEAD, GPU_NODE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("resources", "later", "bundles"),
    [
        (Resources(gpus=0.25), [GPU_NODE], [{"CPU": 1.0, "GPU": 0.25}]),
        (Resources(gpus=2.0, workers=2), 2 * [GPU_NODE], 2 * [{"CPU": 1.0, "GPU": 1.0}]),
        (Resources(cpus=8.0, gpus=0.0), [GPU_NODE], [{"CPU": 8.0}]),
    ],
)
def test_a_sweep_waits_for_what_an_autoscaler_brings(
    resources: Resources, later: list[dict[str, float]], bundles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(monkeypatch, [HEAD], later)
    with pytest.raises(InputError, match=r"fits? .*--wait-for-resources SECONDS|do not fit.*--wait-for-resources"):
        check_resources(resources, local_store=False)
    wait_for(resources, 30.0)
    check_resources(resources, local_store=False)
    assert cluster.asked == [bundles, []]


def test_who_waits_in_vain_is_refused_and_who_need_not_wait_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [HEAD], [])
    wait_for(Resources(gpus=1.0), 0.05)
    with pytest.raises(InputError, match="1 CPUs and 1 GPUs fits no node"):
        check_resources(Resources(gpus=1.0), local_store=False)
    cluster.asked.clear()
    wait_for(Resources(gpus=0.0), 30.0)
    wait_for(Resources(gpus=1.0), 0.0)
    assert cluster.asked == []


def refuse(*args: Any) -> None:
    raise AssertionError("the driver of the GPUs was asked")


def test_trials_on_the_cpu_neither_see_gpus_nor_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("is_available", "get_device_name", "device_count", "get_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    environment.cache_clear()
    assert environment()["gpu"] == environment("cpu")["gpu"] == ""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert environment("cuda")["gpu"] == "H200"
    environment.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    memory.hide_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("gpus", "here", "told"), [(0.25, False, False), (None, True, False), (0.0, True, True)])
def test_a_dry_run_guesses_no_times_on_gpus(
    gpus: float | None, here: bool, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    monkeypatch.setattr("raybd.command_line.dry_run.estimate", lambda *args: Estimate(60.0, 0.0))
    options = SweepOptions.of(gpus_per_trial=gpus, seeds=1)
    assert print_trials(options, expand(options)) == 0
    said = capsys.readouterr().out
    assert ("of one core" in said) is told
    assert ("cannot be told" in said) is not told
