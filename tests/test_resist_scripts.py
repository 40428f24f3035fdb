"""Commands, layouts, knobs and the keys of a user's training."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from raybd.data import load
from raybd.errors import InputError, ScriptError, ScriptKilledError
from raybd.scripts import ScriptConfig
from raybd.scripts.command import run_command
from raybd.scripts.config import fill
from raybd.scripts.functions import function_hash
from raybd.scripts.knobs import parse_knobs, settings
from raybd.scripts.layouts import LAYOUTS, data_path, layout_of
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import prepare
from raybd.types import Data, Images
from tests.conftest import made_images
from tests.processes import SECONDS, spawned

CLASSES = ("a", "b", "c", "d")


# --- commands ------------------------------------------------------------------------


def run(tmp_path: Path, command: str, limit: float = 0.0) -> float:
    return run_command(
        "train", command, tmp_path / "train.log", folder=tmp_path, environment={"RAYBD_SEED": "3"}, limit=limit
    )


def ends(file: Path) -> bool:
    """Whether the process whose number is in a file ends within seconds."""
    status = Path(f"/proc/{file.read_text().strip()}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text().split()[2] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_command_runs_in_its_folder_with_its_variables_and_its_output_is_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "pwd; echo $RAYBD_SEED >&2") < 5
    assert (tmp_path / "train.log").read_text().split() == [str(tmp_path), "3"]


def test_a_crash_is_told_with_its_status_and_last_lines(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"(?s)train ended with exit status 3: .*last lines .*\n9\n.*20\nno more$"):
        run(tmp_path, "seq 20; echo no more; exit 3")


def test_a_hang_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ScriptError, match=r"ran longer than --time-limit 0.5 s"):
        run(tmp_path, "(sleep 60; echo late > late) & echo $! > child; sleep 60", limit=0.5)
    assert time.monotonic() - start < 10
    assert ends(tmp_path / "child")


def test_what_goes_on_behind_a_command_that_has_ended_is_ended_too(tmp_path: Path) -> None:
    run(tmp_path, "sleep 60 & echo $! > child")
    assert ends(tmp_path / "child")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_ends_with_the_worker_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    worker, started = (
        spawned(run, tmp_path, "sleep 300 & echo $! > started.part; mv started.part started; wait"),
        tmp_path / "started",
    )
    for _ in range(600):
        if started.exists():
            break
        time.sleep(0.1)
    assert worker.pid
    os.kill(worker.pid, number)
    worker.join(SECONDS)
    assert worker.exitcode == -number
    assert ends(started)


def test_a_command_has_nothing_to_read_and_its_status_is_its_own(tmp_path: Path) -> None:
    run(tmp_path, "cat; read -r line || echo 'no line'; echo \"$0 and 'quotes'\"")
    assert (tmp_path / "train.log").read_text() == "no line\n/bin/sh and 'quotes'\n"
    with pytest.raises(ScriptKilledError, match="SIGSEGV"):
        run(tmp_path, "sh -c 'kill -SEGV $$'; exit $?")


def test_a_signal_is_a_failure_of_its_own_for_which_another_attempt_is_worth_while(tmp_path: Path) -> None:
    with pytest.raises(ScriptKilledError, match="ended by SIGKILL"):
        run(tmp_path, "kill -9 $$")


def test_an_error_of_the_heartbeat_ends_the_command(tmp_path: Path) -> None:
    def beat() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command("train", "sleep 60", tmp_path / "log", folder=tmp_path, environment={}, heartbeat=beat)


def test_values_are_quoted_and_double_braces_are_braces() -> None:
    assert fill("x {out} {{print}} { $1 } {k}", {"out": "a b;c", "k": 0.5}) == "x 'a b;c' {print} { $1 } 0.5"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("x {data}", r"--train needs {out} in its command"),
        ("x {data} {out} {wieght}", "unknown name in braces: wieght .* did you mean weight"),
        ("", r"--train needs {data} and {out} in its command, which is: empty"),
    ],
)
def test_names_in_braces_are_checked(train: str, said: str) -> None:
    script = ScriptConfig(train=train, predict="p {out} {data} {predictions}", knobs=(("weight", 1),))
    with pytest.raises(InputError, match=said):
        raise InputError(script.problems())


# --- layouts -------------------------------------------------------------------------


def written(tmp_path: Path, layout: str, shape: tuple[int, int, int]) -> tuple[Path, Images, Images, Sequence[int]]:
    train, test = made_images(24, shape, seed=1), made_images(12, shape, seed=2)
    test = test.take(torch.randperm(12, generator=torch.Generator().manual_seed(0)))
    path = data_path(layout, tmp_path)
    return path, train, test, LAYOUTS[layout](path, train, test, CLASSES)


@pytest.mark.parametrize("layout", ["npz", "npz_channels_last", "npz_channels_first", "folder", "folder_val"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 5)])
def test_what_is_written_reads_back_as_it_was_in_the_order_that_is_told(
    tmp_path: Path, layout: str, shape: tuple[int, int, int]
) -> None:
    path, train, test, order = written(tmp_path, layout, shape)
    kind = "npz" if layout.startswith("npz") else "folder"
    found = load(f"{kind}:{path}")
    assert found.classes == CLASSES
    assert torch.equal(found.test.x, test.x[list(order)])
    assert torch.equal(found.test.y, test.y[list(order)])
    assert sorted(map(bytes, found.train.x.numpy())) == sorted(map(bytes, train.x.numpy()))
    if not (layout == "npz_channels_last" and shape[0] == 3):  # where there are colours they are last anyway
        assert layout_of(f"{kind}:{path}") == layout


def test_mnist_s_files_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    for layout, cls in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        path, train, test, order = written(tmp_path / layout, layout, (1, 8, 8))
        for half, images in ((True, train), (False, test)):
            found = cls(path, train=half)
            assert torch.equal(found.data, images.x[:, 0])
            assert torch.equal(found.targets, images.y)
        assert list(order) == list(range(12))


def test_csv_has_a_line_an_image(tmp_path: Path) -> None:
    path, _, test, _ = written(tmp_path, "csv", (3, 6, 5))
    rows = np.loadtxt(path / "test.csv", delimiter=",", dtype=int)
    assert (rows[:, 0] == test.y.numpy()).all()
    assert (rows[:, 1:].reshape(12, 6, 5, 3) == test.x.numpy().transpose(0, 2, 3, 1)).all()


def test_a_set_whose_files_torchvision_checks_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="refuses files of other checksums: choose --layout folder or npz"):
        layout_of("cifar10")
    assert layout_of("digits") == "npz"
    assert layout_of("mnist[7,1]") == "mnist"


@pytest.mark.parametrize("layout", ["folder", "npz", "csv"])
def test_predictions_come_back_to_the_images_that_they_are_of(layout: str, digits: Data) -> None:
    """Each command tells the class that its copy says, in the order of its copy: all are right, and none is fooled."""
    list_classes = {
        "folder": "find {data}/test -name '*.png' | LC_ALL=C sort | awk -F/ '{{print $(NF-1)}}' > {predictions} #{out}",
        "npz": f"{sys.executable} -c 'import numpy as n,sys;n.save(sys.argv[2],n.load(sys.argv[1])[\"y_test\"])'"
        " {data} {predictions} # {out}",
        "csv": "cut -d, -f1 {data}/test.csv > {predictions} # {out}",
    }
    script = ScriptConfig(train="true # {data} {out}", predict=list_classes[layout], layout=layout)
    config = TrialConfig(model=ModelConfig(name="script"), script=script, poison_rate=0.05)
    result = run_trial(config, digits)
    assert result.metrics["accuracy/clean"] == 1
    assert result.metrics["attack_success"] == 0
    assert result.metrics["accuracy/robust"] == 1


# --- knobs ---------------------------------------------------------------------------


def test_knobs_have_values_on_their_scales() -> None:
    decay, epochs, words = parse_knobs(
        ["decay=1e-4..1:log", "epochs=20,5,10", "how=adam,sgd,lion"], ["decay=0.01", "epochs=10"]
    )
    assert [decay.value(place) for place in (0, 0.25, 0.5, 1)] == [1e-4, 1e-3, 1e-2, 1.0]
    assert (epochs.values, epochs.default) == ((5, 10, 20), 10)
    assert settings([decay, epochs, words], {"decay": 0.0}) == (("decay", 1e-4), ("epochs", 10), ("how", "adam"))
    assert words.far_places == [0.5, 1.0]
    assert epochs.far_places == [0.0, 1.0]
    assert decay.value(decay.between(1.0, 0.5)) == 0.1
    for knob in (decay, epochs, words):
        assert knob.value(knob.place(knob.default)) == knob.default
    (whole,) = parse_knobs(["k=1..9"], [])
    assert [whole.value(place) for place in (0, 0.4, 1)] == [1, 4, 9]


@pytest.mark.parametrize(
    ("knobs", "defaults", "said"),
    [
        (["decay"], [], "write NAME=LOW..HIGH or A,B,C"),
        (["k=3"], [], "at least two different values"),
        (["k=5..1"], [], "LOW must be below HIGH"),
        (["k=0..1:log"], [], "above 0"),
        (["k=a..b"], [], "a range is of numbers"),
        (["k=1..2"], ["k=3"], "is outside 1..2"),
        (["k=1,2"], ["k=3"], "is none of the values 1,2"),
        (["k=1,2"], ["j=3"], r"--defaults of no knob: j \(knobs: k\)"),
        (["seed=1,2"], [], "raybd's own name"),
        (["k=1,2", "k=3,4"], [], "given twice"),
    ],
)
def test_knobs_that_are_none_are_refused(knobs: list[str], defaults: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_knobs(knobs, defaults)


# --- keys ----------------------------------------------------------------------------


def key(script: ScriptConfig, **changes: object) -> str:
    config = TrialConfig(model=ModelConfig(name="script"), script=script, poison_rate=0.05)
    return prepare([replace(config, **changes)])[0][0].key  # type: ignore[arg-type]


def test_the_key_has_commands_files_and_knobs_and_neither_folder_nor_time_limit(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("x = 1")
    (tmp_path / "settings.txt").write_text("a")
    script = ScriptConfig(
        train="python train.py settings.txt {data} {out}", predict="p {out} {data} {predictions}", folder=str(tmp_path)
    )
    first = key(script)
    assert key(replace(script, time_limit=5.0)) == first
    (tmp_path / "there").mkdir()
    for name in ("train.py", "helper.py", "settings.txt"):
        (tmp_path / "there" / name).write_bytes((tmp_path / name).read_bytes())
    assert key(replace(script, folder=str(tmp_path / "there"))) == first
    assert key(replace(script, knobs=(("k", 1),))) != first
    assert key(replace(script, train=script.train + " ")) != first
    seen = {first}
    for name in ("train.py", "helper.py", "settings.txt"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + " # changed")
        seen.add(key(script))
    assert len(seen) == 4


def test_a_config_comes_back_from_its_plain_form() -> None:
    script = ScriptConfig(
        train="t {data} {out}", predict="p {out} {data} {predictions}", knobs=(("k", 1), ("d", 0.1)), time_limit=3.0
    )
    config = TrialConfig(model=ModelConfig(name="script"), script=script)
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert config.params["script.knobs.d"] == 0.1
    assert "script.folder" not in config.params
    assert not [name for name in config.params if name.startswith(("train.", "probes", "recipe"))]


def test_a_function_is_known_by_its_source_and_what_it_closes_over() -> None:
    def make(value: object) -> object:
        def train(images: object, labels: object, seed: int) -> object:
            return value

        return train

    one, two = make(1), make(2)
    assert function_hash(one) == function_hash(make(1))  # type: ignore[arg-type]
    assert function_hash(one) != function_hash(two)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="closes over what cannot be told apart"):
        function_hash(make(os.scandir(".")))  # type: ignore[arg-type]
