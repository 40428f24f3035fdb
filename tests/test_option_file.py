"""Files of options: read in every format, refused with all problems at once, written by a sweep that they repeat."""

import json
from pathlib import Path

import pytest

from raybd.command_line.command import main
from raybd.command_line.grid import expand
from raybd.command_line.option_file import write_options
from raybd.command_line.options import SweepOptions, parse_options
from raybd.errors import InputError
from sweeps.ib import PRESETS

YAML = """
# a comment
seeds: 5
weight-decays: [5e-4, 0.1]
flip: [true, false]
attacks: ["badnets:size=2", blended]
inline: true
data_memory: null
"""
TOML = """
seeds = 5
weight_decays = [5e-4, 0.1]
flip = [true, false]
attacks = ["badnets:size=2", "blended"]
inline = true
"""
GIVEN = {"seeds": 5, "weight_decays": [5e-4, 0.1], "flip": [True, False], "attacks": ["badnets:size=2", "blended"]}


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", YAML), ("a.toml", TOML), ("a.JSON", json.dumps(GIVEN | {"inline": True}))]
)
def test_every_format_says_the_same_as_the_flags(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    typed = "--seeds 5 --weight-decays 5e-4 0.1 --flip True False --attacks badnets:size=2 blended --inline"
    found = parse_options(PRESETS, ["--config", str(tmp_path / name)])
    assert found.flat() == parse_options(PRESETS, typed.split()).flat()


def test_what_is_typed_comes_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("preset: paper\nseeds: 7\ninline: true")
    options = parse_options(PRESETS, ["--seeds", "2", f"--config={tmp_path / 'a.yaml'}", "--no-inline"])
    assert (options.preset, options.training.seeds, options.execution.inline) == ("paper", 2, False)


def problems(text: str, tmp_path: Path, name: str = "a.yaml") -> str:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        parse_options(PRESETS, ["--config", str(tmp_path / name)])
    return "\n".join(caught.value.problems)


def test_unknown_names_are_refused_all_at_once(tmp_path: Path) -> None:
    said = problems("sedes: 3\nepochs: {a: 1}\nwidth: 2", tmp_path)
    assert "unknown option in" in said
    assert "sedes, width" in said
    assert "did you mean" in said
    assert "epochs is a value or a list" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "seeds: [1", "is no YAML"),
        ("a.toml", "seeds", "is no TOML"),
        ("a.yaml", "- 1", "holds no options"),
        ("a.txt", "seeds: 1", "is one of .yaml"),
    ],
)
def test_a_file_that_is_none(name: str, text: str, said: str, tmp_path: Path) -> None:
    assert said in problems(text, tmp_path, name)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match="nowhere.yaml cannot be read"):
        parse_options(PRESETS, ["--config", "nowhere.yaml"])


def test_every_option_comes_back(tmp_path: Path) -> None:
    """Also numbers that YAML 1.1 takes for text, infinite ones and names that look like numbers."""
    odd = SweepOptions.of(name="007", learning_rates=(1e-5,), stall_seconds=float("inf"), crop=(0, 2), flip=(True,))
    write_options(tmp_path / "a.yaml", odd.flat(), "python sweeps/ib.py")
    assert parse_options(PRESETS, ["--config", str(tmp_path / "a.yaml")]).flat() == odd.flat()


def test_a_password_is_not_written(tmp_path: Path) -> None:
    options = SweepOptions.of(tracking_uri="http://me:secret@host:5000")
    write_options(tmp_path / "a.yaml", options.flat(), "")
    assert "secret" not in (tmp_path / "a.yaml").read_text()


def test_a_sweep_writes_the_file_that_repeats_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small = "--epochs 1 --widths 0.25 --weight-decays 5e-4 --poison-rates 0.1 --seeds 1 --attacks badnets --noise 0"
    args = [*small.split(), "--metrics", "stealth", "--inline", "--name", "again"]
    assert main(PRESETS, lambda *_: ("", []), args) == 0
    file = tmp_path / "results" / "again" / "options.yaml"
    assert f"--config {file.relative_to(tmp_path)}" in capsys.readouterr().out
    assert main(PRESETS, lambda *_: ("", []), ["--config", str(file)]) == 0
    assert "again: 1 trials have finished, 0 to run" in capsys.readouterr().out
    assert [c.key for c in expand(parse_options(PRESETS, ["--config", str(file)]))] == [
        c.key for c in expand(parse_options(PRESETS, args))
    ]
