"""The sweep script as people start it: help, dry run, every bad input, Ctrl-C, a copy in another folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raybd.cli import main as raybd_main
from raybd.command_line.command import main
from raybd.command_line.grid import expand
from raybd.command_line.options import SweepOptions
from raybd.errors import InputError
from raybd.tracking import load_runs
from sweeps.ib import PRESETS, summarise

SCRIPT = Path(__file__).parent.parent / "sweeps" / "ib.py"
SMALL = "--epochs 2 --widths 0.25 --weight-decays 5e-4 --poison-rates 0 0.1 --seeds 1 --attacks badnets".split()


def run(*args: str, cwd: Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    return subprocess.run(
        [sys.executable, script, *args], capture_output=True, text=True, cwd=cwd, env=env, timeout=120, check=False
    )


@dataclass
class Said:
    """What the script prints, and its exit status, in this process and the folder of the test."""

    capsys: pytest.CaptureFixture[str]
    status: int = 0
    out: str = ""
    err: str = ""

    def by(self, *args: str) -> "Said":
        self.status = main(PRESETS, summarise, args)
        self.out, self.err = self.capsys.readouterr()
        return self


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.chdir(tmp_path)
    return Said(capsys)


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *args: str) -> str:
    """What the script says on standard error when it refuses `args`, having written nothing."""
    places = ["--results", str(tmp_path / "r"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]
    assert main(PRESETS, summarise, [*SMALL, *places, "--inline", *args]) == 2
    assert list((tmp_path / "r").glob("*/trials/*")) == []
    return capsys.readouterr().err


def test_help_lists_typed_options_with_defaults(tmp_path: Path) -> None:
    said = run("--help", cwd=tmp_path)
    assert said.returncode == 0
    for option in (
        "--name --data --data-root --model --attacks --poison-rates --weight-decays --widths --epochs --seeds "
        "--gpus-per-trial --cpus-per-trial --max-concurrent --tracking-uri --address --inline --dry-run --preset"
    ).split():
        assert option in said.stdout
    assert "0.0015 0.003 0.01 0.03" in said.stdout


@pytest.mark.long
def test_a_copy_of_the_script_runs_alone(said: Said, tmp_path: Path) -> None:
    """As `ray submit` does it: this one file in the home folder, no sibling beside it."""
    copy = tmp_path / "ib.py"
    shutil.copy(SCRIPT, copy)
    done = run(*SMALL, "--inline", cwd=tmp_path, script=copy)
    assert done.returncode == 0, done.stderr
    assert "2 trials finished" in done.stdout
    assert "nanobind" not in done.stderr  # Triton's farewell, where it was imported
    assert re.search(r"attack +10%\nbadnets +-?\d+ ", done.stdout)
    assert (tmp_path / "results" / "ib" / "map.png").read_bytes().startswith(b"\x89PNG")
    store = f"sqlite:///{tmp_path}/mlflow.db"  # where MLflow makes its own
    assert said.by(*SMALL, "--inline", "--tracking-uri", store).status == 0
    assert "2 trials have finished, 0 to run" in said.out


def test_dry_run_lists_the_trials_and_an_estimate(said: Said, tmp_path: Path) -> None:
    head, trials, last = (block.splitlines() for block in said.by("--dry-run").out.strip().split("\n\n"))
    number = int(re.fullmatch(r"(\d+) trials", head[0]).group(1))  # type: ignore[union-attr]
    assert head[1].startswith("all trials: data=digits")
    assert "weight_decay" not in head[1]
    assert any(re.match(r"axis train.weight_decay \(\d+\): 0.0005, ", line) for line in head)
    data = "data digits: 1297 images to train on, 500 to test, of 1 x 8 x 8 (channels x height x width); 10 classes of "
    assert any(line.startswith(data) for line in head)
    assert len({line.split()[0] for line in trials[:-1]}) == 20
    assert trials[-1] == f"... and {number - 20} more: --all lists them"
    assert re.match(
        rf"{number} trials, about \d+:\d\d(:\d\d)? of one core, \d+:\d\d of it for the measures, ", last[-1]
    )
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_every_trial_on_request_and_warns_of_classes_of_few_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"cat": 40, "dog": 40, "newt": 3}
    labels = np.concatenate([np.full(n, label) for label, n in enumerate(counts.values())])
    x = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    args = ["--dry-run", "--all", "--data", f"npz:{tmp_path / 'own.npz'}", "--noise", "0", "--metrics", "stealth"]
    assert main(PRESETS, summarise, [*args, "--poison-rates", "0.1", "--seeds", "12", "--widths", "0.25"]) == 0
    said = capsys.readouterr().out
    keys = re.findall(r"^[0-9a-f]{16}  ", said, re.MULTILINE)
    assert f"{len(keys)} trials\n" in said
    assert len(keys) >= 24
    assert "more: --all" not in said
    assert "warning: classes of very few images: 2 (3 to train on, 3 to test)" in said


def test_paper_preset_is_the_papers_setting() -> None:
    trials = expand(PRESETS["paper"])
    assert {t.model.name for t in trials} == {"resnet18"}
    assert {(t.data, t.train.epochs, t.train.batch_size, t.train.learning_rate) for t in trials} == {
        ("cifar10", 120, 256, 0.1)
    }
    assert trials[0].probes == (1, 5, 10, 20, 40, 60, 80, 100, 120)


def test_defences_train_at_the_rates_and_weight_decays_that_are_theirs() -> None:
    axes = {"poison_rates": (0.0, 0.01, 0.1), "weight_decays": (5e-4, 0.05), "widths": (1.0,), "attacks": ("badnets",)}
    options = SweepOptions.of(**axes, defences=("none", "abl"), seeds=1)
    assert len(expand(options)) == 12
    some = expand(options.replace(defence_rates=(0.01,), defence_weight_decays=(5e-4,)))
    at = [(type(t.defence).__name__, t.poison_rate, t.train.weight_decay) for t in some]
    assert sorted(place for place in at if place[0] != "NoDefence") == [
        ("Abl", 0.0, 5e-4),
        ("Abl", 0.01, 5e-4),
    ]
    assert len(at) == 6 + 2
    with pytest.raises(InputError) as error:
        expand(options.replace(defence_rates=(0.02,), defence_weight_decays=(0.5,)))
    assert error.value.problems == [
        "--defence-rates must be of --poison-rates (0, 0.01, 0.1), got 0.02",
        "--defence-weight-decays must be of --weight-decays (0.0005, 0.05), got 0.5",
    ]


def test_common_options_reach_the_trials() -> None:
    options = PRESETS["quick"].replace(attacks=("blended",), poison_rates=(0.02,), seeds=2, depths=(2, 3))
    trials = expand(options)
    assert len(trials) == 2 * 2 * 2  # seeds x depths x weight decays
    assert {t.model.depth for t in trials} == {2, 3}
    assert {t.train.crop for t in expand(options.replace(data="cifar10"))} == {4}
    assert {t.train.flip for t in expand(options.replace(data="cifar10", flip=(False,)))} == {False}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--attacks", "badnetz"],
            "unknown attack: badnetz (known: adaptive_blend, adaptive_k_way, adaptive_patch, advdoor, all, badnets",
        ),
        (["--model", "smal_cnn"], "unknown model: smal_cnn"),
        (["--model", "torchvision:resnet19"], "resnet18"),
        (["--model", "nowhere:net"], "nowhere:net cannot be imported"),
        (["--data", "digit"], "digits"),
        (["--preset", "fast"], "unknown preset: fast (known: finetune, paper, quick"),
        (["--poison-rates", "-0.1"], "--poison-rates must be in [0, 1], got -0.1"),
        (["--poison-rates", "1.5"], "--poison-rates must be in [0, 1], got 1.5"),
        (["--poison-rates", "0.0001"], "poison rate 0.0001 of 1297 images poisons nobody"),
        (["--target", "10"], "target 10 is no class (allowed: 0 to 9)"),
        (["--seeds", "0"], "--seeds must be in [1, 1e+06], got 0"),
        (["--weight-decays", "-1"], "--weight-decays must be at least 0 and finite, got -1"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--learning-rates", "0"], "--learning-rates must be above 0 and finite, got 0"),
        (["--widths", "-1"], "--widths must be above 0 and finite, got -1"),
        (["--optimizer", "adm"], "optimizer must be one of sgd, adamw, got 'adm'"),
        (["--labels", "some"], "labels must be one of all_to_one, all_to_all, got 'some'"),
        (["--max-concurrent", "0"], "--max-concurrent must be at least 1, got 0"),
        (["--name", "a/b"], "'a/b' cannot name a sweep"),
        (["--name", "../up"], "'../up' cannot name a sweep"),
        (["--name", "a\x07b"], "cannot name a sweep"),
        (["--results", "/proc/nowhere"], "the results folder /proc/nowhere/ib cannot be written to"),
        (["--tracking-uri", "sqlite:////proc/nowhere/m.db"], "is not writable"),
        (["--tracking-uri", "http://127.0.0.1:9"], "the tracking store http://127.0.0.1:9 cannot be used"),
        (["--tracking-uri", "nonsense://x"], "the tracking store nonsense://x cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_before_any_work(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert says in refused(capsys, tmp_path, *args)


def test_all_problems_come_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = "--attacks badnetz blendet --seeds 0 --name a/b --data x --epochs"
    said = refused(capsys, tmp_path, *bad.split())
    for piece in ("badnetz, blendet", "--seeds must", "'a/b'", "unknown data", "--epochs needs at least one value"):
        assert piece in said


def test_unknown_options_are_refused(said: Said) -> None:
    with pytest.raises(SystemExit) as ended:
        said.by("--posion-rates", "0.1")
    assert ended.value.code == 2
    assert "--poison-rates" in said.capsys.readouterr().err


def test_bad_data_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def picture(name: str, side: int = 8) -> None:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), 9, np.uint8)).save(path)

    def said() -> str:
        return refused(capsys, tmp_path, "--data", f"folder:{tmp_path / 'data'}")

    for n in range(5):
        picture(f"cat/{n}.png")
    assert "class" in said()
    for n in range(5):
        picture(f"dog/{n}.png", 8 if n else 9)
    assert "9x9" in said()
    picture("dog/0.png")
    (tmp_path / "data" / "dog" / "broken.png").write_bytes(b"no picture")
    assert "broken.png" in said()

    x = np.zeros((6, 8, 8), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.arange(5) % 2, x_test=x, y_test=np.arange(6) % 2)
    text = refused(capsys, tmp_path, "--data", f"npz:{tmp_path / 'd.npz'}")
    assert "6" in text
    assert "5" in text


def test_missing_files_name_the_root(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o555)
    said = refused(capsys, tmp_path, "--data", "cifar10", "--data-root", str(tmp_path / "empty"))
    assert str(tmp_path / "empty") in said
    assert "cifar-10" in said


def test_own_images_from_a_folder(tmp_path: Path) -> None:
    """Two classes a person can tell apart, as PNG files: the whole way."""
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(40):
            pixels = rng.integers(level - 30, level + 30, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{n}.png")
    args = [*SMALL, "--data", f"folder:{tmp_path / 'data'}", "--inline", "--results", str(tmp_path / "r")]
    args += ["--noise", "0", "--metrics", "smoothness"]
    assert main(PRESETS, summarise, [*args, "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    runs = load_runs("ib", f"sqlite:///{tmp_path}/m.db")
    assert set(runs["metrics.accuracy/clean"]) == {1.0}


def test_send_needs_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raybd_main(["send", "none-such", "--results", str(tmp_path)]) == 2
    assert "there is no sweep 'none-such'" in capsys.readouterr().err


def test_a_dry_run_without_the_data_prints_the_setting_all_the_same(said: Said, tmp_path: Path) -> None:
    assert said.by("--preset", "paper", "--dry-run", "--all", "--data-root", str(tmp_path)).status == 0, said.err
    for part in (
        "data=cifar10",
        "model.name=resnet18",
        "model.noise=0.4",
        "train.epochs=120",
        "probes=1,5,10,20,40,60,80,100,120",
        "adaptive_blend 0.025",
        "without the data",
    ):
        assert part in said.out
    for nothing in ("npz:nowhere.npz", "digits[7,12]"):  # no data of the table that only wait to be brought
        assert said.by("--data", nothing, "--dry-run").status == 2


def test_a_sweep_by_its_name_is_its_script(said: Said) -> None:
    args = [*SMALL, "--dry-run", "--noise", "0", "--metrics", "stealth"]
    assert raybd_main(["sweep", "ib", *args]) == 0
    named = said.capsys.readouterr().out
    keys = re.findall(r"^[0-9a-f]{16} ", said.by(*args).out, re.MULTILINE)
    assert len(keys) == 2
    assert re.findall(r"^[0-9a-f]{16} ", named, re.MULTILINE) == keys


def test_a_sweep_by_its_name_ends_as_its_script_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert raybd_main(["sweep", "ib", "--seeds", "0"]) == 2
    assert "--seeds must be in [1, 1e+06]" in capsys.readouterr().err
    assert raybd_main(["sweep", "ibb"]) == 2
    said = capsys.readouterr().err
    assert (
        "unknown sweep: ibb (known: attacks, boundary, defences, early_warning, ib, learning_curves, resist, " in said
    )
    assert "did you mean ib?" in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert raybd_main(["--version"]) == 0
    assert capsys.readouterr().out == f"raybd {version('raybd')}\n"


def test_methods_in_one_word_are_told_to_be_written_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, tmp_path, "--attacks", "badnets,blended")
    assert (
        said
        == "error: unknown attack: badnets,blended (several are written with spaces between them: badnets blended)\n"
    )


def test_the_package_runs_as_the_command(tmp_path: Path) -> None:
    for module in ("raybd", "raybd.cli"):
        words = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout == f"raybd {version('raybd')}\n"


def test_a_dry_run_into_a_pipe_that_is_closed_says_nothing(tmp_path: Path) -> None:
    """As `sweeps/ib.py --dry-run | head -1`, after which Python says a word at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, SCRIPT, *SMALL, "--seeds", "100", "--dry-run", "--all", "--noise", "0"]
    command += ["--metrics", "stealth"]
    with os.fdopen(writing, "wb") as closed:
        said = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert (said.returncode, said.stderr) == (128 + signal.SIGPIPE, "")
