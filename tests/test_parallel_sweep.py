"""Trials that share a GPU, and trials that several GPUs share: on a Ray that believes in GPUs, trained on CPUs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from raybd.execution.driver import Plan, plan

from raybd.attacks import WaNet
from raybd.command_line import command
from raybd.command_line.options import SweepOptions
from raybd.defences import DEFENCES, Defence, Oracle
from raybd.errors import InputError
from raybd.execution.attempt import Setup, run_attempt
from raybd.execution.progress import Progress
from raybd.execution.resources import Resources
from raybd.plugins import parse
from raybd.training import TrainConfig, parallel
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FINISHED
from raybd.trials.run import run_trial
from raybd.types import Data

LONGER = TrainConfig(epochs=5, learning_rate=0.01)
SHORT = TrialConfig(train=TrainConfig(epochs=2, learning_rate=0.01), poison_rate=0.1)  # larger steps multiply rounding


def planned(folder: Path, configs: list[TrialConfig]) -> Plan:
    return plan("p", configs, folder / "results", f"sqlite:///{folder}/mlflow.db")


@pytest.mark.parametrize(
    "config",
    [
        SHORT,
        replace(SHORT, defence=Oracle()),
        replace(SHORT, poison_rate=0.0),
        replace(SHORT, attack=WaNet(each_epoch=True)),
        replace(SHORT, train=replace(SHORT.train, beta=0.5)),
    ],
    ids=["plain", "oracle", "clean twin", "renewed each epoch", "beta"],
)
def test_a_trial_of_two_workers_measures_what_one_does(config: TrialConfig, digits: Data, tmp_path: Path) -> None:
    one = run_trial(config, digits, shared=tmp_path / "1")
    two = run_trial(config, digits, shared=tmp_path / "2", workers=2)
    assert two.metrics.keys() == one.metrics.keys()
    for name, value in one.metrics.items():
        if not name.startswith("seconds"):
            assert two.metrics[name] == pytest.approx(value, abs=1e-5 if "loss" in name else 0), name


def test_the_place_of_a_trial_is_not_in_its_key(digits: Data, tmp_path: Path) -> None:
    a = planned(tmp_path, [SHORT])
    outcome = run_attempt(a.todo[0], digits, Setup("p", a.folder, a.store.address, workers=2))
    assert (outcome.status, outcome.key) == (FINISHED, a.todo[0].key)
    assert not planned(tmp_path, [SHORT]).todo


def made(name: str) -> Defence:
    return parse("defence", DEFENCES, name)


@pytest.mark.parametrize("name", [name for name in DEFENCES if made(name).parallel])
def test_what_calls_itself_parallel_trains_with_all_workers(
    name: str, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(work: Any, workers: int, device: torch.device) -> AbstractContextManager[Any]:
        asked.append(workers)
        return parallel.together(work, 1, device)

    monkeypatch.setattr("raybd.training.loop.together", note)
    config = replace(SHORT, train=TrainConfig(epochs=1), defence=made(name), validation=0.1)
    run_trial(config, digits, workers=2)
    assert asked
    assert set(asked) == {2}


@pytest.mark.parametrize("name", [name for name in DEFENCES if not made(name).parallel])
def test_a_loop_of_its_own_is_refused_more_than_one_gpu(name: str, digits: Data) -> None:
    config = replace(SHORT, defence=made(name), validation=0.1)
    with pytest.raises(InputError, match=f"defence {name} has no training that 2 GPUs could share"):
        run_trial(config, digits, workers=2)


def test_the_numbers_of_gpus_that_make_sense(capsys: pytest.CaptureFixture[str]) -> None:
    good = {None: 1, 0.0: 1, 0.25: 1, 1.0: 1, 2.0: 2, 8.0: 8}
    assert {gpus: Resources(gpus=gpus).workers for gpus in good} == good
    assert not any(Resources(gpus=gpus).problems() for gpus in good)
    presets = {"quick": SweepOptions()}

    def said(*args: str) -> str:
        assert command.main(presets, lambda *_: ("", []), ["--dry-run", *args]) == 2
        return capsys.readouterr().err

    assert "a trial cannot hold 1.5 GPUs: a part of one (0.25), or a whole number" in said("--gpus-per-trial", "1.5")
    assert "defence abl has no training that 2 GPUs" in said("--gpus-per-trial", "2", "--defences", "none", "abl")
    assert command.main(presets, lambda *_: ("", []), ["--dry-run", "--gpus-per-trial", "2"]) == 0


@pytest.fixture(params=[1])
def gpus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local Ray that believes in so many GPUs, and in CPUs enough; the folder in which `Seen` writes."""
    import ray

    flags = tmp_path / "flags"
    flags.mkdir()
    monkeypatch.setenv("RAYBD_TEST_FLAGS", str(flags))
    small: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=8, num_gpus=request.param, logging_level="ERROR", **small)
    yield flags
    ray.shutdown()


def notes(flags: Path) -> list[list[tuple[float, str, str]]]:
    """Of every network that was trained: time, CUDA_VISIBLE_DEVICES and rank at each step."""
    lines = [[line.split() for line in file.read_text().splitlines()] for file in flags.iterdir()]
    return [[(float(when), where, rank) for when, where, rank in file] for file in lines]


def test_four_trials_and_no_fifth_share_a_gpu(gpus: Path, tmp_path: Path) -> None:
    """Five trials: none of the first four goes on before all four have begun, and the fifth waits for a place."""
    from raybd.execution import on_ray

    config = replace(SHORT, train=TrainConfig(epochs=1), model=ModelConfig(name="tests.teamwork:one_of_four"))
    a = planned(tmp_path, [replace(config, seed=seed) for seed in range(5)])
    setup = Setup("p", a.folder, a.store.address)  # "cuda" would be the device of a sweep
    on_ray.run_round(a.todo, a.data, setup, Resources(cpus=1, gpus=0.25), Progress(5))
    seen = notes(gpus)
    assert len(seen) == 5
    assert {where for trial in seen for _, where, _ in trial} == {"0"}
    spans = [(trial[0][0], trial[-1][0]) for trial in seen]
    assert max(sum(start <= at <= end for start, end in spans) for at, _ in spans) == 4


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_a_trial_of_two_gpus_has_two_workers(gpus: Path, tmp_path: Path) -> None:
    from raybd.execution import on_ray

    a = planned(tmp_path, [replace(SHORT, train=LONGER, model=ModelConfig(name="tests.teamwork:seen"))])
    asked, _, _ = on_ray(a, Resources(gpus=2))
    assert (asked.device, asked.workers) == ("cuda", 2)
    on_ray.run_round(a.todo, a.data, replace(asked, device="cpu"), Resources(gpus=2), Progress(1))
    record = a.folder.trial(a.todo[0].key).read()
    assert record is not None
    assert record.status == FINISHED, record.error
    assert sorted({(where, rank) for trial in notes(gpus) for _, where, rank in trial}) == [("0,1", "0"), ("0,1", "1")]
    alone = run_trial(a.todo[0], a.data["digits"])
    assert record.metrics["accuracy/clean"] == alone.metrics["accuracy/clean"]
    assert record.metrics["attack_success"] == alone.metrics["attack_success"]
    with pytest.raises(InputError, match="3 GPUs fits no node"):
        on_ray(a, Resources(gpus=3))
    with pytest.raises(InputError, match="cannot hold 1.5 GPUs"):
        on_ray(a, Resources(gpus=1.5))
