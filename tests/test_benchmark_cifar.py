"""The benchmark on real images runs whole at a small size on a bare machine, goes on where it stopped, and checks."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybd.command_line.grid import expand
from raybd.errors import InputError
from raybd.training import Checkpoint
from raybd.trials.base import TrialResult
from raybd.trials.config import TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.twins import twin_of
from raybd.trials.validate import problems
from raybd.types import Report
from sweeps import ib
from tests.benchmarks import cifar
from tests.benchmarks.cifar import Bench, Done
from tests.conftest import made_images

ROOT = Path(__file__).parent.parent
ABSENT = ("ray", "mlflow", "tyro", "optuna", "torchvision", "sknetwork", "triton")  # triton only to save its seconds
SHORT = 0.001  # the rate that poisons nobody of 320
TRAINED = 4  # two attacks at the two other rates


@pytest.fixture(scope="module", autouse=True)
def _here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYBD_DATA", str(tmp_path_factory.mktemp("data")))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A .npz of 320 images of four colours, which two epochs tell apart; 80 for the test."""
    arrays = {}
    for seed, (half, count) in enumerate({"train": 320, "test": 80}.items()):
        images = made_images(count, (3, 8, 8), 4, seed)
        colours = torch.tensor([[9, 0, 0], [0, 9, 0], [0, 0, 9], [4, 4, 4]], dtype=torch.uint8)
        arrays[f"x_{half}"] = (images.x // 3 + 17 * colours[images.y][:, :, None, None]).numpy()
        arrays[f"y_{half}"] = images.y.numpy()
    file = tmp_path_factory.mktemp("npz") / "colours.npz"
    np.savez(file, **arrays)
    return f"npz:{file}"


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, Path]:
    """What the script says, its exit status and its file, on a machine without the heavy packages."""
    bare = tmp_path_factory.mktemp("bare")
    for name in ABSENT:
        (bare / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is not here', name='{name}')\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(bare), str(ROOT)])}
    out = bare / "trials.jsonl"
    command = [sys.executable, "-m", "tests.benchmarks.cifar", *_args(data, out), "--at-once", "2"]
    run = subprocess.run(command, check=False, env=env, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in run.stderr, run.stderr
    return run.stdout, run.returncode, out


def _args(data: str, out: Path) -> list[str]:
    return ["--data", data, "--device", "cpu", "--small", "--seeds", "1", "--out", str(out)]


class Here(Executor):
    """Runs in this very process what is submitted."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, task: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(task(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as the executor does
            future.set_exception(error)
        return future


def _at(data: str, out: Path) -> Bench:
    return Bench("cpu", data, 1, out, epochs=2, batch=16, width=0.125)


def _rows(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line[:2] == "| "]


@pytest.mark.long
def test_it_runs_whole_on_a_bare_machine_and_prints_a_table(whole: tuple[str, int, Path]) -> None:
    said, _, _ = whole
    head, _, *rows = _rows(said)
    assert head == cifar.HEAD
    assert [row[:2] for row in rows] == [[a, r] for a in cifar.TRIED for r in ("0.0%", "0.1%", "10.0%")]
    for row in (row for row in rows if row[1] != "0.1%"):
        clean, success, robust, seconds = (float(cell.split()[0]) for cell in row[3:7])
        assert 25 < clean <= 100
        assert 0 <= success <= 100
        assert 0 <= robust <= 100 - success
        assert seconds > 0
        assert row[7] == "2"
    controls = [row[3] for row in rows if row[1] == "0.0%"]
    assert len(set(controls)) == 1  # one clean network
    assert f"with {', '.join(cifar.MEASURES)}: " in said.split("alone:")[1]


@pytest.mark.long  # of the same run
def test_a_failing_trial_is_named_and_the_others_go_on(whole: tuple[str, int, Path]) -> None:
    said, status, out = whole
    assert status == 1
    failed = [line for line in said.splitlines() if " failed: " in line]
    assert sorted(line.split()[0] for line in failed) == ["badnets", "blended"]
    for line in failed:
        assert f" {SHORT} " in line
        assert "InputError" in line
        assert "poisons nobody" in line
    assert [row[2:] for row in _rows(said) if row[1] == "0.1%"] == [["0", "-", "-", "-", "-", ""]] * 2
    assert len(out.read_text().splitlines()) == TRAINED + 1
    assert said.count(": clean ") == TRAINED + 1  # a line as each ends


@pytest.mark.long  # of the same run
def test_what_has_ended_is_not_trained_again(
    whole: tuple[str, int, Path], data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, _, out = whole
    before, tried = out.read_text(), []

    def never(config: TrialConfig, *_: Any, **__: Any) -> TrialResult:
        tried.append(config.poison_rate)
        raise RuntimeError("not again")

    monkeypatch.setattr(cifar, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(cifar, "run_trial", never)
    assert cifar.main(_args(data, out)) == 1
    again = capsys.readouterr().out
    assert tried == [SHORT] * 2  # those that failed
    assert _rows(again) == _rows(said)
    assert again.splitlines()[-3:] == said.splitlines()[-3:]
    assert out.read_text() == before


def test_the_status_is_0_where_nothing_fails(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args, seeds = [*_args(data, tmp_path / "new" / "x.jsonl"), "--seeds", "3", "--epochs", "7"], []

    def made(config: TrialConfig, at: Bench) -> Done:
        seeds.append((config.seed, at.at_once))
        assert config.train.epochs == 7
        return Done(config.key, config.label, [1.0, 0.0, 1.0], 1.0, at.at_once, 0.0)

    monkeypatch.setattr(cifar, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(cifar, "trial", made)
    assert cifar.main(args) == 0
    assert seeds == [(0, 4)] * 6 + [(1, 4)] * 6 + [(2, 4)] * 6 + [(0, 1)]
    assert {(row[2], row[7]) for row in _rows(capsys.readouterr().out)[2:]} == {("3", "4")}
    monkeypatch.setattr(cifar, "MEASURES", ())  # now the one with all measures is another trial, and fails alone
    monkeypatch.setattr(cifar, "trial", lambda config, at: 1 / 0)
    assert cifar.main(args) == 1


def test_the_table_has_means_and_extremes_over_seeds(data: str, tmp_path: Path) -> None:
    at = replace(_at(data, tmp_path / "made.jsonl"), rates=(0.05,))
    shares = {0: [0.9, 0.98, 0.02], 1: [0.92, 1.0, 0.0]}
    keys = [at.config("blended", 0.05, seed).key for seed in shares]
    lines = [Done(key, "", shares[seed], [40.0, math.nan][seed], 4 - seed, 0.0) for seed, key in enumerate(keys)]
    at.out.write_text("".join(json.dumps(vars(line)) + "\n" for line in lines))
    assert _rows(cifar.table(at))[3] == [
        *["blended", "5.0%", "2", "91.00 [90.00 to 92.00]", "99.00 [98.00 to 100.00]", "1.00 [0.00 to 2.00]"],
        *["40.00 [40.00 to 40.00]", "3, 4"],
    ]


def test_the_recipe_is_backdoorbench_s_and_the_measures_are_the_sweep_s(data: str, tmp_path: Path) -> None:
    at = Bench("cpu", data, 4, tmp_path / "x")
    config = at.config("badnets", 0.001, 1)
    train_config, model = config.train, config.model
    assert (train_config.epochs, train_config.batch_size, train_config.optimizer, train_config.learning_rate) == (
        100,
        128,
        "sgd",
        0.01,
    )
    assert (
        train_config.momentum,
        train_config.weight_decay,
        train_config.schedule,
        train_config.crop,
        train_config.flip,
    ) == (0.9, 5e-4, "cosine", 4, True)
    assert (model.name, model.width, model.noise, config.metrics) == ("preact_resnet18", 1.0, 0.0, ())
    assert (at.rates, at.seeds) == ((0.0, 0.001, 0.005, 0.01, 0.05, 0.1), 2)
    measured = at.measured()
    assert not problems(measured)
    assert ib.METRICS == cifar.MEASURES
    assert measured.metrics == expand(ib.PRESETS["paper"].replace(data="digits"))[0].metrics
    assert ib.PRESETS["paper"].network.noise == measured.model.noise
    assert replace(measured, metrics=(), model=model, seed=1, poison_rate=0.001) == config


def test_the_trial_that_is_timed_alone_finds_its_twin_trained(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, seen = _at(data, tmp_path / "x"), []
    quiet = run_trial(at.config("badnets", 0.1, 0), cifar.on_device(data, "cpu"))

    def noted(config: TrialConfig, _: Any, checkpoint: Any = None, shared: Path | None = None) -> TrialResult:
        assert checkpoint is None or checkpoint.every == math.inf
        seen.append((config, shared))
        time.sleep(0.3 / len(seen) ** 2)  # 0.3, then 0.075
        return quiet

    monkeypatch.setattr(cifar, "run_trial", noted)
    found = cifar.trial(at.measured(), at)
    (twin, cache_folder), (config, same) = seen
    assert cache_folder is not None
    assert cache_folder == same
    assert config == at.measured()
    assert (twin.poison_rate, twin.metrics, twin_of(twin).key) == (0.0, (), twin_of(config).key)
    assert found.before >= 0.3
    assert 0.075 <= found.seconds < 0.3


def test_a_trial_goes_on_from_its_checkpoint(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, epochs = _at(data, tmp_path / "x.jsonl"), []
    config, images = at.config("blended", 0.1, 0), cifar.on_device(data, "cpu")
    file = tmp_path / "x.parts" / f"{config.key}.pt"

    def cut(report: Report) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(config, images, cut, Checkpoint(file, 0.0))
    assert file.exists()
    noted = partial(run_trial, report=lambda report: epochs.append(report.epoch))
    monkeypatch.setattr(cifar, "run_trial", noted)
    resumed, afresh = cifar.trial(config, at), cifar.trial(config, replace(at, out=tmp_path / "y"))
    assert epochs == [2, 1, 2]
    assert not file.exists()
    assert math.isnan(resumed.seconds)
    assert afresh.seconds > 0
    assert resumed.shares == afresh.shares


def test_the_checks_see_what_is_wrong(data: str, tmp_path: Path) -> None:
    config, images = _at(data, tmp_path / "x").config("badnets", 0.1, 0), cifar.on_device(data, "cpu")
    result = run_trial(config, images)
    shares = cifar.checked(config, images, result)
    assert shares == [result.metrics[name] for name in ("accuracy/clean", "attack_success", "accuracy/robust")]
    with pytest.raises(SystemExit, match="33 images are poisoned, 32 were asked for"):
        cifar.checked(config, images, replace(result, manifest=result.manifest | {"poison": 33}))
    for name in ("clean_prediction", "triggered_prediction"):
        said = [images.classes.index(one) for one in getattr(result.examples, name)]
        others = replace(result.examples, **{name: [images.classes[(one + 1) % 4] for one in said]})
        with pytest.raises(SystemExit, match="8 of 16 predictions are others"):
            cifar.checked(config, images, replace(result, examples=others))
    with pytest.raises(InputError, match="poisons nobody"):
        cifar.trial(replace(config, poison_rate=SHORT), _at(data, tmp_path / "x"))
