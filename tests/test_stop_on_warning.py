"""--stop-on-warning: who is stopped, what is kept of it, and what the map, the status and the next start make of it."""

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from raybd.cli import main as raybd
from raybd.command_line.command import main
from raybd.early_warning import WITH_TRIGGER, write_warning
from raybd.errors import InputError
from raybd.execution.warning_scheduler import WarningScheduler
from raybd.tracking import load_runs
from raybd.tracking.status import status
from sweeps import ib
from tests.test_warning_model import NAMES, made

SMALL = ["--attacks", "badnets", "--poison-rates", "0", "0.1", "--weight-decays", "5e-4", "--seeds", "1"]
SMALL += ["--widths", "0.25", "--epochs", "5", "--probes", "1", "--metrics", "defender", "--defences", "none"]
SMALL += ["--figures", "none", "--inline"]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/m.db"


def swept(folder: Path, uri: str, *more: str) -> int:
    args = [*SMALL, "--name", "w", "--results", str(folder / "r"), "--tracking-uri", uri, *more]
    return main(ib.PRESETS, ib.summarise, args)


def test_a_trial_that_is_stopped_is_no_measured_cell_and_runs_whole_without_the_option(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    always = ["--stop-on-warning", "--warning", str(write_warning([made(intercept=5.0)], tmp_path / "w.json"))]
    assert swept(tmp_path, uri, *always) == 0
    assert "1 stopped on their early warning" in capsys.readouterr().out
    runs = load_runs("w", uri).set_index("params.poison_rate")  # the clean trial is nobody's to stop
    assert runs["status"].to_dict() == {"0.0": "FINISHED", "0.1": "KILLED"}
    assert runs.loc["0.1", "tags.raybd.warning"] == "0.9933"
    found = status("w", uri)
    assert (found.finished, found.failed, found.stopped, found.left) == (1, 0, 1, 0)
    assert "1 stopped on their early warning" in str(found)
    verdict = DefendedRegionMap.from_mlflow("w", uri).query(poison_rate=0.1)
    assert verdict.status == "unmeasured"
    assert verdict.reason.startswith("no finished trial: 1 stopped on their early warning (a backdoor takes hold with")
    assert verdict.warned == pytest.approx([0.9933], abs=1e-4)
    assert not verdict.failures
    assert math.isnan(verdict.attack_success.value)

    assert swept(tmp_path, uri, *always) == 0  # it is known, and not begun again
    assert len(load_runs("w", uri)) == 2
    assert "1 stopped on their early warning" in capsys.readouterr().out

    assert swept(tmp_path, uri) == 0
    assert "1 trials finished, 1 had finished before" in capsys.readouterr().out
    whole = DefendedRegionMap.from_mlflow("w", uri).query(poison_rate=0.1)
    assert (whole.seeds, whole.warned) == (1, ())
    assert status("w", uri).stopped == 0


def test_a_warning_that_abstains_stops_nothing(tmp_path: Path, uri: str) -> None:
    given = ["--stop-on-warning", "--warning", str(write_warning([made(intercept=1.0)], tmp_path / "w.json"))]
    assert swept(tmp_path, uri, *given) == 0
    assert set(load_runs("w", uri)["status"]) == {"FINISHED"}


def test_a_later_stage_stops_whom_the_earlier_was_not_sure_of(tmp_path: Path, uri: str) -> None:
    stages = [made(intercept=1.0), made(intercept=5.0, share=0.4), made(intercept=9.0, share=0.8)]
    given = ["--stop-on-warning", "--warning", str(write_warning(stages, tmp_path / "w.json"))]
    assert swept(tmp_path, uri, *given) == 0
    stopped = load_runs("w", uri).set_index("params.poison_rate").loc["0.1"]
    assert (stopped["status"], stopped["tags.raybd.warning"]) == ("KILLED", "0.9933")  # by the second


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metrics", "stealth"], "--stop-on-warning needs --metrics defender"),
        (["--probes", "2", "5"], "--stop-on-warning needs a probe in the first 20% of the epochs"),
        (["--dry-run", "--metrics", "stealth"], "--stop-on-warning needs --metrics defender"),
        (["--warning", str(WITH_TRIGGER)], "--stop-on-warning needs --metrics mutual_information"),
        (["--warning", "none.json"], "none.json holds no early warning"),
    ],
)
def test_what_could_stop_nothing_is_refused(
    more: list[str], said: str, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--stop-on-warning", "--warning", str(write_warning([made()], tmp_path / "w.json"))]
    assert swept(tmp_path, uri, *given, *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("epochs", "refused"), [(20, True), (5, False), (8, False), (4, True)])
def test_a_warning_of_other_trainings_is_refused(
    epochs: int, refused: bool, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = write_warning([made(fitted_to={"epochs": [5, 8]})], tmp_path / "w.json")
    more = ["--stop-on-warning", "--warning", str(warning), "--epochs", str(epochs), "--dry-run"]
    assert swept(tmp_path, uri, *more) == (2 if refused else 0)
    said = f"fitted to trainings of 5, 8 epochs and is wrong where there are {epochs}: fit one to a sweep of this kind"
    assert (said in capsys.readouterr().err) == refused
    if refused:
        with pytest.raises(InputError, match=f"trainings of 5, 8 epochs, not {epochs}"):
            WarningScheduler(epochs, warning)


def rows(**statuses: float) -> pd.DataFrame:
    """Cells of three seeds by poison rate: a probability (the trials were stopped), or 2 (defended), 3 (backdoored)."""
    found = []
    for rate, value in {"0": 2.0, **statuses}.items():
        success = {2.0: 0.01, 3.0: 0.95}.get(value, math.nan)
        status, warning = ("STOPPED", value) if math.isnan(success) else ("FINISHED", math.nan)
        accuracy = math.nan if math.isnan(success) else 0.97
        one = {"attack.name": "badnets", "poison_rate": float(rate), "status": status, "warning": warning}
        found += [
            one | {"seed": seed, "clean_accuracy": accuracy + seed / 1e4, "attack_success": success + seed / 1e4}
            for seed in range(3)
        ]
    return pd.DataFrame(found)


def test_a_boundary_reads_what_a_warning_said_and_names_it() -> None:
    whole = DefendedRegionMap.from_frame(rows(**{"0.01": 2.0, "0.03": 2.0, "0.1": 3.0, "0.3": 3.0})).boundary()
    found = DefendedRegionMap.from_frame(rows(**{"0.01": 0.05, "0.03": 2.0, "0.1": 3.0, "0.3": 0.95})).boundary()
    columns = ["largest defended", "low", "high", "holes"]
    pd.testing.assert_frame_equal(found[columns], whole[columns])
    assert whole["reason"][0] == "defended up to 0.03, undefended from 0.1"
    assert found["reason"][0] == f"{whole['reason'][0]}; an early warning alone tells 0.01, 0.3"


def test_warnings_that_differ_tell_a_boundary_nothing() -> None:
    frame = rows(**{"0.01": 2.0, "0.1": 0.95})
    frame.loc[frame.index[-1], "warning"] = 0.05
    found = DefendedRegionMap.from_frame(frame).boundary()
    assert (found["largest defended"][0], found["high"][0]) == (0.01, math.inf)


@pytest.mark.parametrize("value", [-0.1, 1.5, "high"])
def test_a_table_with_a_warning_that_is_no_probability_is_refused(value: object) -> None:
    frame = rows(**{"0.1": 0.95}).astype({"warning": object})
    frame.loc[frame.index[-1], "warning"] = value
    with pytest.raises(InputError, match="warning must be"):
        DefendedRegionMap.from_frame(frame)


@pytest.mark.ray
def test_a_scheduler_of_tune_stops_trials_of_ones_own(tmp_path: Path) -> None:
    import ray
    from ray import tune

    warning = write_warning([made(coefficients=(4.0, 0.0))], tmp_path / "w.json")

    def train(config: dict[str, float]) -> None:
        for _ in range(10):
            tune.report({NAMES[0]: config["value"]})

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    try:
        scheduler = WarningScheduler(10, warning)
        found = tune.Tuner(
            train,
            param_space={"value": tune.grid_search([-1.0, 0.1, 1.0])},
            tune_config=tune.TuneConfig(scheduler=scheduler),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "t"), verbose=0),
        ).fit()
        table = found.get_dataframe()
        lasted = dict(zip(table["config/value"], table["training_iteration"], strict=True))
        assert lasted == {-1.0: 2, 0.1: 10, 1.0: 2}
        assert sorted(scheduler.probabilities.values()) == pytest.approx([0.018, 0.599, 0.982], abs=1e-3)
    finally:
        ray.shutdown()


def test_the_command_of_the_map_shows_it(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    always = ["--stop-on-warning", "--warning", str(write_warning([made(intercept=5.0)], tmp_path / "w.json"))]
    assert swept(tmp_path, uri, *always) == 0
    capsys.readouterr()
    assert raybd(["map", "w", "show", "--tracking-uri", uri]) == 0
    assert raybd(["map", "w", "query", "poison_rate=0.1", "--tracking-uri", uri]) == 0
    assert "1 stopped on their early warning" in capsys.readouterr().out
    assert raybd(["runs", "w", "--tracking-uri", uri]) == 0
    assert "STOPPED" in capsys.readouterr().out
