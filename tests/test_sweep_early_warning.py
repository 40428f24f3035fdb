"""The sweep that asks whether measures foretell the verdict, from its options to its observations, in this process."""

from pathlib import Path

import pytest

from analysis import signal
from analysis.signal.measures import measured
from raybd.cli import main as raybd
from raybd.command_line.command import main
from raybd.command_line.options import SweepOptions
from sweeps import early_warning

SMALL = ["--epochs", "4", "--widths", "0.5", "--seeds", "1", "--weight-decays", "5e-4", "--figures", "none", "--inline"]


def test_the_sweep_writes_observations_that_say_the_same_without_its_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = ["defender", "smoothness:points=20,sigmas=[0.5],variants=[triggered]", "stealth"]
    args = [*SMALL, "--attacks", "badnets", "blended", "--poison-rates", "0", "0.002", "0.09", "--probes", "1", "2"]
    args += ["--metrics", *metrics, "--results", str(tmp_path / "r"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]
    assert main(early_warning.PRESETS, early_warning.summarise, args, expand=early_warning.expand) == 0
    said = capsys.readouterr().out
    assert "5 trials finished" in said  # one clean trial, for both attacks
    folder = tmp_path / "r" / "early_warning"
    observations = signal.read_observations(folder / "observations.csv.gz")
    assert set(observations["epoch"]) == {1, 2, 3, 4}
    assert {"defender/patches/largest", "smoothness/clean/sigma_0.5", "attack_success/slope"} <= set(
        measured(map(str, observations))
    )
    clean = observations[observations["poison_rate"] == 0]
    assert (clean["trial"].nunique(), set(clean["attack"]), clean["takes_hold"].any()) == (1, {"none"}, False)
    assert raybd(["signal", str(folder / "observations.csv.gz")]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[0] in said
    assert "\n- The control, a random number, is " in again or "Nothing can be" in again


def test_clean_trials_are_trained_once_for_all_attacks() -> None:
    options: SweepOptions = early_warning.PRESETS["quick"]
    trials = early_warning.expand(options)
    clean = [trial for trial in trials if not trial.poison_rate]
    assert len(clean) == 3 * 2
    assert len(trials) == len(clean) + 11 * 4 * 2 * 3
    assert len({type(trial.attack) for trial in trials if trial.poison_rate}) == 11
