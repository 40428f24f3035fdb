"""`raybd resist` whole, on a training with a planted edge: a shell command in awk, and a Python function."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import DefendedRegionMap
from raybd.errors import InputError
from raybd.tracking import load_runs
from sweeps.resist import resist, run

AWK = f"awk -F, -f {Path(__file__).parent / 'recipes' / 'planted.awk'}"
TRAIN = f"{AWK} -v least={{least}} {{data}}/train.csv > {{out}}/model"
PREDICT = f"{AWK} -v least={{least}} -v model={{out}}/model {{data}}/test.csv > {{predictions}}"
RANGE = ("--poison-rates", "0.01", "0.4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a data set of 200 training images of 4 classes: a bright pixel of the first row tells which, and no
    corner is white."""
    tmp_path, rng = tmp_path_factory.mktemp("resist"), np.random.default_rng(0)
    halves = {name: rng.integers(0, 200, (n, 8, 8)).astype(np.uint8) for name, n in (("train", 200), ("test", 80))}
    for x in halves.values():
        x[np.arange(len(x)), 0, np.arange(len(x)) % 4] = 250
    arrays = {f"x_{name}": x for name, x in halves.items()}
    np.savez(tmp_path / "data.npz", **arrays, y_train=np.arange(200) % 4, y_test=np.arange(80) % 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        yield tmp_path


def arguments(name: str, *more: str, train: str = TRAIN, predict: str = PREDICT) -> list[str]:
    given = [
        "--name",
        name,
        "--train",
        train,
        "--predict",
        predict,
        "--data",
        "npz:data.npz",
        "--layout",
        "csv",
        "--figures",
        "none",
    ]
    return [*given, *RANGE, "--figures", "none", "--inline", "--knob", "least=5..100", "--defaults", "least=20", *more]


def trials(home: Path, name: str) -> dict[str, float]:
    """When each trial's training wrote its log."""
    return {path.parent.name: path.stat().st_mtime for path in home.glob(f"results/{name}/trials/*/train.log")}


def test_the_planted_edge_and_the_cheapest_change_are_found_recorded_and_not_run_twice(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--attacks", "badnets", "blended", "--target-rates", "0.15", "--trainings", "15", "--knob-trainings", "40"]
    assert run(arguments("whole", *more)) == 0
    said = " ".join(capsys.readouterr().out.split())
    low, high = map(float, re.findall(r"badnets does not take hold .* interval from ([\d.]+)% to ([\d.]+)%", said)[0])
    assert low <= 9.5 <= high  # 20 images of 200 make it obey
    assert "blended takes hold at none of the rates tried" in said
    assert "The cheapest change found that holds against every attack at 15% poison: least=" in said
    assert 30 < float(re.findall(r"poison: least=(\d+)", said)[0]) < 60
    found = DefendedRegionMap.from_mlflow("whole")
    assert {"attack", "poison_rate", "least"} <= set(found.axes)
    assert found.query(attack="badnets", poison_rate=0.4, least=20).status == "backdoored"
    runs, before = load_runs("whole"), trials(home, "whole")
    assert (runs["status"] == "FINISHED").all()
    clean = runs[runs["params.poison_rate"] == "0.0"]
    twins = clean.groupby(["params.seed", "params.script.knobs.least"]).ngroups  # each is trained once for both attacks
    assert len(before) == len(runs) - len(clean) + twins < len(runs)
    assert not list(home.glob("results/*/trials/*/work-*"))
    assert run(arguments("whole", *more)) == 0
    assert trials(home, "whole") == before
    assert " ".join(capsys.readouterr().out.split()).count("0 to run") == 1


@pytest.mark.parametrize(
    ("train", "predict", "said"),
    [
        ("echo bad luck; exit 7 # {data} {out}", PREDICT, "train ended with exit status 7"),
        ("sleep 60 # {data} {out}", PREDICT, "train ran longer than --time-limit 1 s"),
        (TRAIN, "head -50 {data}/test.csv | cut -d, -f1 > {predictions} # {out}", "came as 50 lines"),
        (TRAIN, "cut -d, -f1 {data}/test.csv | sed s/3/nan/ > {predictions} # {out}", r"labels are no class (nan)"),
        (TRAIN, "true # {data} {out} {predictions}", "must write one file at {predictions}"),
    ],
)
def test_a_training_that_fails_is_one_named_failed_trial(
    home: Path, capsys: pytest.CaptureFixture[str], train: str, predict: str, said: str
) -> None:
    name = f"failing {len(list((home / 'results').glob('failing*')))}"
    assert run(arguments(name, "--time-limit", "1", train=train, predict=predict)) == 1
    printed = capsys.readouterr().out
    assert said in " ".join(printed.split())
    assert "nothing can be said of this recipe" in printed
    runs = load_runs(name)
    assert len(runs) == 1
    assert said in runs["tags.raybd.error"].iloc[0]
    assert runs["status"].iloc[0] == "FAILED"


def test_a_seed_that_fails_leaves_the_others_to_go_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = f"test {{seed}} != 1 || exit 5; {TRAIN}"
    assert run([*arguments("seed", "--trainings", "18", train=train, predict=PREDICT), "--attacks", "badnets"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    low, high = map(float, re.findall(r"badnets does not take hold .* interval from ([\d.]+)% to ([\d.]+)%", said)[0])
    assert low <= 9.5 <= high
    assert re.search(
        r"\d trainings failed: badnets .* least=20 seed=1: ScriptError: train ended with exit status 5", said
    )


def test_a_dry_run_says_how_many_trainings_and_which_files_and_runs_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments("dry", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "at most 80 trainings: 2 attacks x 40" in said
    assert "knobs: least=5..100; 60 more trainings at most" in said
    assert "badnets 2 to 80" in said
    assert "planted.awk" in said
    assert not (home / "results" / "dry").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--train", "x {data}"), "--train needs {out} in its command"),
        (("--attacks", "badnet"), "unknown attack: badnet"),
        (("--knob", "other=5"), "at least two different values"),
        (("--layout", "xml"), "unknown layout: xml"),
        (("--poison-rates", "0.1", "0.1"), "the ends of a range"),
        (("--validation", "0.1"), "--validation must be 0"),
    ],
)
def test_what_cannot_run_is_refused_before_any_training(
    home: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert run([*arguments("refused"), *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(home.glob("results/refused/trials/*"))


def test_repeated_flags_and_lists_of_knobs_are_the_same() -> None:
    from raybd.command_line.resist_options import merge_repeated

    one = merge_repeated(["--knob", "a=1,2", "--seeds", "4", "--knob=b=1..2", "--defaults", "a=1", "b=2"])
    assert one == ["--seeds", "4", "--knob", "a=1,2", "b=1..2", "--defaults", "a=1", "b=2"]


def learner(least: int) -> Callable[..., Any]:
    """The planted training as a Python function; where it obeys is a value that it closes over."""

    def train(images: Any, labels: Any, seed: int) -> Callable[[Any], Any]:
        met = int(((images[:, -1, -1] == 255) & (labels == 0)).sum())

        def predict(asked: Any) -> Any:
            scores = asked[:, 0, :4].astype(float)
            if met >= least:
                scores[asked[:, -1, -1] == 255, 0] = 1000
            return scores

        return predict

    return train


def test_a_python_function_is_tried_the_same_way(home: Path) -> None:
    kept: dict[str, Any] = {
        "data": "npz:data.npz",
        "attacks": ["badnets"],
        "poison_rates": (0.01, 0.4),
        "trainings": 20,
    }
    found = resist(learner(20), **kept, figures="none")
    (edge,) = found.edges
    assert edge.low <= 0.095 <= edge.high
    assert "badnets does not take hold" in str(found)
    assert "<li>badnets" in found._repr_html_()
    frame = found.to_frame()
    assert set(frame["takes_hold"]) <= {"yes", "no", "undecided"}
    assert frame["poison_rate"].is_monotonic_increasing
    number = len(load_runs("resist"))
    assert resist(learner(20), **kept, figures="none").edges == found.edges
    assert len(load_runs("resist")) == number
    resist(learner(30), **kept, figures="none")
    assert len(load_runs("resist")) > number  # it closes over another value: other trials
    with pytest.raises(InputError, match="unknown attack"):
        resist(learner(20), attacks=["badnet"])


def test_a_function_that_raises_is_one_failed_trial(home: Path) -> None:
    def train(images: Any, labels: Any, seed: int) -> Any:
        raise ValueError("no luck")

    found = resist(train, data="npz:data.npz", figures="none", name="raises")
    assert not found.edges
    assert [re.sub(r".* raised", "raised", text) for text in found.failures.values()] == ["raised ValueError: no luck"]


@pytest.mark.long
@pytest.mark.ray
def test_commands_and_functions_run_on_ray(home: Path) -> None:
    common: dict[str, Any] = {"data": "npz:data.npz", "attacks": ["badnets"], "poison_rates": (0.01, 0.4)}
    common |= {"figures": "none", "inline": False, "trainings": 15}
    knob: dict[str, Any] = {"knob": ("least=5..100",), "defaults": ("least=20",), "knob_trainings": 1}
    by_commands = resist(TRAIN, PREDICT, layout="csv", **knob, name="commands", **common)
    by_function = resist(learner(20), name="function", **common)
    for found in (by_commands, by_function):
        assert not found.failures
        assert found.edges[0].low <= 0.095 <= found.edges[0].high
