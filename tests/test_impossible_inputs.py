"""What no trial can have is refused in a line before any trial, by `--dry-run` too."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raybd.attacks import BadNets, Blended
from raybd.command_line.command import main
from raybd.errors import InputError
from raybd.pretraining import PretrainConfig
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import Record
from raybd.trials.rerun import rerun
from raybd.trials.validate import prepare, problems
from sweeps.ib import PRESETS, summarise

MODULE = """
from torch import nn
def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
def soft(shape, classes):
    return nn.Sequential(*net(shape, classes), nn.LogSoftmax(1))
def noisy(shape, classes, noise=0.0):
    return net(shape, classes)
def fails(shape, classes):
    raise RuntimeError("no weights here")
def ends(shape, classes):
    raise SystemExit(3)
def wrong(shape, classes):
    return net(shape, classes + 1)
"""
FAILING = "imports_and_ends"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("impossible.py").write_text(MODULE)
    Path(f"{FAILING}.py").write_text("import sys\nsys.exit(4)\n")
    Path("no.png").write_bytes(b"no picture")
    Image.effect_noise((64, 64), 50).save("cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:500])
    sys.modules.pop("impossible", None)


def said(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """What a dry run with these options is refused with."""
    assert main(PRESETS, summarise, ["--dry-run", "--noise", "0", "--metrics", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


PLAIN, SOFT = ("--model", "impossible:net"), ("--model", "impossible:soft")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--attacks", "blended:image=no.png"), "Blended: no.png is no picture that Pillow knows"),
        (("--attacks", "blended:image=cut.png"), "Blended: the picture cut.png cannot be used: "),
        (("--attacks", "blended:image=pipe"), "Blended: there is no picture at pipe"),
        (("--attacks", 'multi:attacks=["sig","blended:image=no.png"]'), "Multi: Blended: no.png is no picture"),
        (("--attacks", f"badnets:target={10**20}"), f"BadNets: target {10**20} is no class"),
        (("--attacks", "badnets:size=3,size=4"), "attack badnets:size=3,size=4: size is given 2 times"),
        (("--attacks", "badnets:size=3,vibe"), "attack badnets:size=3,vibe: one preset at most, before all settings"),
        (("--defences", "vibe:nu=1,nu=1"), "defence vibe:nu=1,nu=1: nu is given 2 times"),
        (("--metrics", "smoothness:points=3,points=4"), "metric smoothness:points=3,points=4: points is given 2 times"),
        (("--model", "impossible:fails"), "model impossible:fails fails: RuntimeError: no weights here"),
        (("--model", "impossible:ends"), "model impossible:ends fails: SystemExit: 3"),
        (("--model", "impossible:wrong"), "model impossible:wrong must return logits (1, 10)"),
        (("--model", f"{FAILING}:net"), f"model {FAILING}:net cannot be imported: it ends the program"),
        ((*SOFT, "--defences", "vibe"), "VIBE needs features: Sequential is no raybd.models.Classifier"),
        ((*SOFT, "--defences", "spectral"), "Spectral needs features: Sequential is no raybd.models.Classifier"),
        ((*PLAIN, "--defences", "nad", "--validation", "0.1"), "defence nad needs a network with a sequence of blocks"),
        ((*PLAIN, "--defences", "clp"), "defence clp needs a network with convolutions"),
        (("--widths", "1e6"), "model small_cnn of width 1e+06 with batches of 64 needs "),
        (("--widths", "1e300"), "model small_cnn cannot be built: "),
        (("--crop", "1000000"), "a crop by 1000000 pixels leaves nothing of images of 8x8: at most 8"),
        (("--resize", "1000000"), "images of 1x1000000x1000000 take "),
        (("--seeds", "1000000000"), "--seeds must be in [1, 1e+06], got 1000000000"),
        (("--seeds", "1000000"), "20,000,000 trials are asked for, and a sweep has 1,000,000 at most"),
        (("--gpus-per-trial", "nan"), "--gpus-per-trial must be at least 0 and finite, got nan"),
        (("--gpus-per-trial", "inf"), "--gpus-per-trial must be at least 0 and finite, got inf"),
        (("--stall-seconds", "nan"), "--stall-seconds must be at least 1, got nan"),
        (("--stall-seconds", "inf"), "--stall-seconds must be at least 1 and finite, got inf"),
    ],
)
def test_a_dry_run_says_what_cannot_be(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str) -> None:
    lines = said(capsys, *options)
    assert len(lines) == 1
    assert lines[0].startswith(says)


def test_a_metric_of_features_needs_a_network_that_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "impossible:noisy", "--noise", "0.4", "--metrics", "mutual_information")
    assert said(capsys, *options) == [
        "mutual_information needs features that are read with noise, and model impossible:noisy adds its own: let its "
        "function have no parameter noise, or return a raybd.models.Classifier that is given it"
    ]


def test_a_batch_counts_by_its_images_and_a_cluster_by_its_largest_machine() -> None:
    config = TrialConfig(data="digits[0,1;60]", train=TrainConfig(epochs=1, batch_size=10**9))
    assert len(prepare([config], memory=2**24)[0]) == 1
    with pytest.raises(InputError, match=r"needs .* of memory or more, and there are 1 MiB"):
        prepare([config], memory=2**20)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (TrialConfig(poison_rate=math.nan), "poison_rate must be in [0, 1], got nan"),
        (TrialConfig(poison_rate="high"), "poison_rate must be a number, got 'high'"),  # type: ignore[arg-type]
        (TrialConfig(seed="a"), "seed must be a whole number, got 'a'"),  # type: ignore[arg-type]
        (TrialConfig(train=TrainConfig(epochs=2.5)), "epochs must be a whole number, got 2.5"),  # type: ignore[arg-type]
        (TrialConfig(train=TrainConfig(learning_rate=math.inf)), "learning_rate must be above 0 and finite, got inf"),
        (TrialConfig(model=ModelConfig(width=math.nan)), "model small_cnn: width must be above 0 and finite, got nan"),
    ],
)
def test_configs_of_python_are_held_to_the_same(config: TrialConfig, says: str) -> None:
    assert says in problems(config)


def test_settings_of_methods_are_numbers() -> None:
    assert Blended(alpha=math.nan).check((1, 8, 8), 10) == ["Blended: alpha must be in (0, 1], got nan"]
    assert BadNets(size="big").check((1, 8, 8), 10)[0] == "BadNets: size must be a whole number, got 'big'"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="temperature must be above 0 and finite, got nan"):
        PretrainConfig(temperature=math.nan)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"poison_rate": None}, "poison_rate must be a number, got None"),
        ({"attack": {"name": "later", "strength": 3}}, "unknown attack: later"),
        ({"shade": 3}, "TypeError: .*shade"),
        ({"train": None}, "TypeError"),
        ({"metrics": 3}, "TypeError"),
    ],
)
def test_a_record_of_another_version_is_named(changes: dict[str, Any], says: str) -> None:
    config = TrialConfig(data="digits[0,1;60]")
    record = Record(key="k", label="a trial", config=config.to_dict() | changes, params={}, status="FINISHED")
    record = replace(record, environment={"raybd": "9.9"})
    with pytest.raises(InputError, match=says) as caught:
        rerun(record)
    assert caught.value.problems[0].startswith("the record of a trial (raybd 9.9) is no trial of raybd ")
