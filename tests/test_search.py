"""A search that loses nothing, tells no lies to its study, and compares its winner with what was there before."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from raybd.attacks.multi import Multi
from raybd.command_line.search_options import SearchOptions
from raybd.defences import DEFENCES
from raybd.defences.vibe import Vibe
from raybd.errors import InputError
from raybd.execution import attempt, driver, search_on_ray
from raybd.execution import search as searching
from raybd.execution.attempt import Setup
from raybd.execution.resources import Resources
from raybd.execution.search import Search, judge, left, open_study, run, tell
from raybd.execution.search_report import winner, write
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import SweepFolder
from raybd.trials.validate import prepare
from sweeps import vibe

TINY = Vibe(pretrain_epochs=1, iterations=4, e_steps=1, tuned=False)
CASE = TrialConfig(poison_rate=0.05, train=TrainConfig(epochs=1), model=ModelConfig(width=0.25), defence=TINY)
GOALS = {"good": "max", "bad": "min"}


def kappas(trial: optuna.Trial) -> dict[str, Any]:
    return {"kappa": trial.suggest_float("kappa", 5.0, 20.0)}


def judged(cases: Sequence[TrialConfig], seen: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {"good": seen[0]["accuracy/clean"], "bad": max(one["attack_success"] for one in seen)}


@pytest.fixture
def wanted(tmp_path: Path) -> Search:
    return Search(
        name="s",
        base=TINY,
        cases=[replace(CASE, seed=seed) for seed in range(2)],
        space=kappas,
        judge=judged,
        goals=GOALS,
        first={"kappa": 10.0},
        trials=3,
        storage=f"sqlite:///{tmp_path / 'study.db'}",
    )


def place(tmp_path: Path, wanted: Search) -> tuple[driver.Plan, Setup, Search]:
    cases, data = prepare(wanted.cases)
    folder = SweepFolder.of(tmp_path / "results", "s")
    plan = driver.settle(folder, [], data, f"sqlite:///{tmp_path / 'runs.db'}")
    return plan, Setup("s", folder, plan.store.address), replace(wanted, cases=cases)


def records(folder: SweepFolder) -> list[Path]:
    return sorted(folder.path.glob("trials/*/trial.json"))


def test_a_search_that_dies_half_way_loses_no_finished_trial(
    tmp_path: Path, wanted: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, setup, search = place(tmp_path, wanted)
    ran: list[str] = []
    real, training = searching.run_attempt, attempt.run_trial

    def dying(case: TrialConfig, *rest: Any) -> Any:
        if len(ran) == 3:
            raise KeyboardInterrupt  # in the second candidate, whose first case has finished
        return real(case, *rest)

    monkeypatch.setattr(attempt, "run_trial", lambda *all: ran.append(all[0].key) or training(*all))
    monkeypatch.setattr(searching, "run_attempt", dying)
    with pytest.raises(KeyboardInterrupt):
        run(search, plan, setup, None)
    before = {path: path.stat().st_mtime_ns for path in records(setup.folder)}
    assert len(before) == 3
    monkeypatch.setattr(searching, "run_attempt", real)
    study = run(search, plan, setup, None)
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.RUNNING)) == (3, 0)
    assert len(ran) == len(set(ran)) == 6  # three candidates of two cases, each once
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    interrupted = next(trial for trial in study.trials if searching.ABANDONED in trial.user_attrs)
    assert interrupted.params == study.trials[1].params
    assert left(search, study) == 0
    assert len(study.trials) == 4
    assert study.trials[0].params == {"kappa": 10.0}


def test_ctrl_c_ends_a_search_on_ray_and_what_would_follow_it(
    tmp_path: Path, wanted: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune returns from it as from a success, with candidates left; where Tune gave up it is started again."""

    plan, setup, search = place(tmp_path, wanted)
    calls: list[bool] = []
    for gave_up, starts in ((False, 1), (True, driver.GIVE_UPS)):
        calls.clear()
        monkeypatch.setattr(search_on_ray, "run", lambda *_, gave_up=gave_up: calls.append(gave_up) or gave_up)
        with nullcontext() if gave_up else pytest.raises(KeyboardInterrupt):
            run(search, plan, setup, Resources())
        assert len(calls) == starts


def test_a_search_on_ray_says_what_one_in_this_process_says(tmp_path: Path, wanted: Search) -> None:
    plan, setup, search = place(tmp_path, replace(wanted, trials=1))
    ours = run(search, plan, setup, None)
    other = replace(search, storage=f"sqlite:///{tmp_path / 'other.db'}")
    elsewhere = replace(setup, folder=SweepFolder.of(tmp_path / "results", "t"))
    from raybd.execution import on_ray

    on_ray.connect("local", 0)
    theirs = run(other, replace(plan, folder=elsewhere.folder), elsewhere, Resources(at_once=1, gpus=0.0))
    assert theirs.trials[0].values == ours.trials[0].values
    assert theirs.trials[0].user_attrs["settings"] == {"kappa": 10.0}
    assert len(records(elsewhere.folder)) == 2


def test_what_cannot_be_tried_has_failed_and_is_told_why(tmp_path: Path, wanted: Search) -> None:
    plan, setup, search = place(tmp_path, replace(wanted, space=lambda trial: {"kappa": -1.0}, trials=2))
    study = run(search, plan, setup, None)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert "kappa must be at least 0" in study.trials[0].user_attrs["error"]
    assert winner(study, 0.1) is None
    write(study, search, None, tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["winner"] is None


def test_a_candidate_that_lets_an_attack_through_is_cut_short(tmp_path: Path, wanted: Search) -> None:
    plan, setup, search = place(tmp_path, replace(wanted, pruner="worst_case"))
    limits = {"none": math.inf, "worst_case": -1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "PRUNERS", limits)
        said = judge(search, {"kappa": 7.0}, plan.data, setup, lambda: None)
    assert said["cut_short"] == 1
    assert len(records(setup.folder)) == 1


def study_of(*values: tuple[float, float] | None, cut: Sequence[int] = ()) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number, pair in enumerate(values):
        said = dict(zip(GOALS, pair, strict=True)) if pair else {"good": math.nan, "bad": 0.0}
        tell(study, study.ask(), said | ({"cut_short": 1} if number in cut else {}), GOALS)
    return study


def test_the_winner_holds_first_and_is_accurate_second() -> None:
    study = study_of((0.99, 0.4), (0.95, 0.1), (0.97, 0.05), None, (0.97, 0.01), (0.98, 0.02), cut=[5])
    assert [trial.state.name for trial in study.trials].count("FAIL") == 1
    assert winner(study, 0.1).number == 4  # type: ignore[union-attr]
    assert winner(study, 0.005).number == 4  # type: ignore[union-attr]
    assert winner(study_of((0.9, 0.5), (0.8, 0.3)), 0.1).number == 1  # type: ignore[union-attr]


def test_a_number_that_is_none_leaves_no_trial_running() -> None:
    study = study_of(None, (0.9, math.inf), (0.9, 0.1))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "COMPLETE"]


def test_a_storage_that_cannot_be_opened(wanted: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        open_study(replace(wanted, storage=f"sqlite:///{tmp_path}/no/such/folder/s.db"))
    with pytest.raises(InputError, match="cannot be used"):
        open_study(replace(wanted, storage="nonsense"))
    open_study(wanted)
    with pytest.raises(InputError, match="other goals"):
        open_study(replace(wanted, goals={"good": "max", "bad": "max"}))


def test_the_worst_attack_by_its_mean_over_seeds() -> None:
    options = SearchOptions(
        attacks=("badnets", "blended"), poison_rates=(0.0, 0.05), widths=(0.5,), weight_decays=(0.0,)
    )
    cases = options.cases()
    assert [(case.seed, type(case.attack).__name__) for case in cases] == [
        (0, "BadNets"),
        (0, "Blended"),
        (1, "BadNets"),
        (1, "Blended"),
    ]
    seen = [{"accuracy/clean": a, "attack_success": s} for a, s in ((1.0, 0.3), (0.8, 0.1), (0.9, 0.1), (0.9, 0.25))]
    said = vibe.judge("truth", cases, seen)
    assert said == pytest.approx({"clean_accuracy": 0.9, "worst_attack_success": 0.2})


def test_a_defender_s_canary_is_an_attack_of_his_own() -> None:
    options = SearchOptions(
        attacks=("badnets:size=1",), poison_rates=(0.05,), objective="canary", validation=0.1, widths=(0.5,), target=3
    )
    case = options.cases()[0]
    assert isinstance(case.attack, Multi)
    theirs, own = case.attack.members()
    assert (theirs.attack.target, own.attack.target) == (3, 0)
    assert (theirs.share, own.share) == pytest.approx((0.05 / 0.06, 0.01 / 0.06))
    assert case.poison_rate == pytest.approx(0.06)
    assert not case.problems()
    seen = [{"accuracy/clean": 0.9, "accuracy/validation": 0.8, "attack_success": 0.5}]
    seen[0] |= {f"attack_success/{theirs.name}": 0.6, f"attack_success/{own.name}": 0.1}
    said = vibe.judge("canary", [case], seen)
    assert (said["agreement"], said["worst_canary"], said["worst_attack_success"]) == (0.8, 0.1, 0.6)


def test_the_comparison_has_every_attack_and_clean_twins_once() -> None:
    options = SearchOptions(attacks=("badnets",), held_out=("sig",), poison_rates=(0.0, 0.05), seeds=2, widths=(0.5,))
    trials = options.configs()
    twins = [trial for trial in trials if not trial.poison_rate]
    assert len(twins) == 3 * 2 * 2  # defences x seeds x weight decays
    assert len({trial.key for trial in trials}) == len(trials)
    assert {type(trial.attack).__name__ for trial in trials if trial.poison_rate} == {"BadNets", "Sig"}
    assert {type(trial.defence).__name__ for trial in trials} == {"NoDefence", "Oracle", "Vibe"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    options = SearchOptions(
        attacks=("badnets",),
        held_out=("badnets", "sigg"),
        base="vibes",
        candidates=0,
        sampler="t",
        pruner="p",
        objective="canary",
        poison_rates=(0.0,),
    )
    said = "\n".join(options.problems())
    for part in ("sigg", "vibes", "--candidates", "sampler", "pruner", "--validation", "above 0", "held out and seen"):
        assert part in said


def test_every_candidate_of_the_space_is_a_defence() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(vibe.FIRST)
    for _ in range(30):
        settings = vibe.space(study.ask())
        defence = replace(Vibe(), **settings)
        assert not defence.problems((1, 8, 8), 10)
        assert DEFENCES["vibe"] is type(defence)
