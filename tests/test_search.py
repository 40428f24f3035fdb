"""A search that loses nothing, tells no lies to its study, and compares its winner with what was there before."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from analysis.search_summary import front_table
from raybd.attacks import Blended
from raybd.attacks.multi import Multi
from raybd.command_line.search_goals import Judge
from raybd.command_line.search_grid import expand_comparison, search_cases
from raybd.command_line.search_options import SearchOptions
from raybd.defences import DEFENCES, NoDefence
from raybd.defences.vibe import Vibe
from raybd.errors import InputError
from raybd.execution import attempt
from raybd.execution import search as searching
from raybd.execution.outcome import Outcome
from raybd.execution.plan import SweepPlan, resume
from raybd.execution.proposers import Proposal, Signal
from raybd.execution.queue import TrialQueue
from raybd.execution.resources import Resources
from raybd.execution.search import Search, candidates_left, open_study, tell_study
from raybd.execution.search_proposer import OptunaProposer
from raybd.execution.search_report import winner, write_search_report
from raybd.execution.sweep import local_executor, ray_executor, run_sweep
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FAILED, FINISHED, SweepFolder
from raybd.trials.validate import prepare, problems
from raybd.utils.constraints import violations
from sweeps import vibe

TINY = Vibe(pretrain_epochs=1, iterations=4, e_steps=1, tuned=False)
CASE = TrialConfig(poison_rate=0.05, train=TrainConfig(epochs=1), model=ModelConfig(width=0.25), defence=TINY)
GOALS = {"good": "max", "bad": "min"}
Pair = tuple[float, float]


def kappas(trial: optuna.Trial) -> dict[str, Any]:
    return {"kappa": trial.suggest_float("kappa", 5.0, 20.0)}


def evaluated(
    cases: Sequence[TrialConfig], seen: Sequence[Mapping[str, float]], controls: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    assert len(cases) == len(seen)
    return {"good": seen[0]["accuracy/clean"], "bad": max(one["attack_success"] for one in seen)}


@pytest.fixture
def wanted(tmp_path: Path) -> Search:
    return Search(
        name="s",
        base=TINY,
        cases=[replace(CASE, seed=seed) for seed in range(2)],
        space=kappas,
        evaluate=evaluated,
        goals=GOALS,
        first=[{"kappa": 10.0}],
        limits={"bad": 0.1},
        trials=3,
        storage=f"sqlite:///{tmp_path / 'study.db'}",
    )


def place(tmp_path: Path, wanted: Search) -> tuple[SweepPlan, Search]:
    cases, data = prepare(wanted.cases)
    folder = SweepFolder.of(tmp_path / "results", "s")
    return resume(folder, [], data, f"sqlite:///{tmp_path / 'runs.db'}"), replace(wanted, cases=cases)


def run(search: Search, plan: SweepPlan) -> optuna.Study:
    study = open_study(search)
    result = run_sweep(plan, local_executor(plan), OptunaProposer(search, study))
    if result.interrupted:
        raise KeyboardInterrupt
    return study


def records(folder: SweepFolder) -> list[Path]:
    return sorted(folder.path.glob("trials/*/trial.json"))


def test_a_search_that_dies_half_way_loses_no_finished_trial(
    tmp_path: Path, wanted: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, search = place(tmp_path, wanted)
    ran: list[str] = []
    real, dying = attempt.run_checked, True

    def training(config: TrialConfig, *rest: Any) -> Any:
        if dying and len(ran) == 3:
            raise KeyboardInterrupt  # in the second candidate, whose first case has finished
        ran.append(config.key)
        return real(config, *rest)

    monkeypatch.setattr(attempt, "run_checked", training)
    with pytest.raises(KeyboardInterrupt):
        run(search, plan)
    before = {path: path.stat().st_mtime_ns for path in records(plan.folder)}
    assert len(before) == 3
    dying = False
    again, _ = place(tmp_path, wanted)
    study = run(search, again)
    states = [trial.state for trial in study.trials]
    assert (states.count(TrialState.COMPLETE), states.count(TrialState.RUNNING)) == (3, 0)
    assert len(ran) == len(set(ran)) == 6  # three candidates of two cases, each once
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    interrupted = next(trial for trial in study.trials if searching.ABANDONED in trial.user_attrs)
    assert interrupted.params == study.trials[1].params
    assert candidates_left(search, study) == 0
    assert len(study.trials) == 4
    assert study.trials[0].params == {"kappa": 10.0}


@pytest.mark.long
@pytest.mark.ray
def test_a_search_on_ray_finds_what_one_in_this_process_finds(tmp_path: Path, wanted: Search) -> None:
    plan, search = place(tmp_path, replace(wanted, trials=1))
    ours = run(search, plan)
    (tmp_path / "other").mkdir()
    elsewhere, other = place(tmp_path / "other", replace(search, storage=f"sqlite:///{tmp_path / 'other.db'}"))
    study = open_study(other)
    executor = ray_executor(elsewhere, Resources(at_once=1, gpus=0.0), "local")
    result = run_sweep(elsewhere, executor, OptunaProposer(other, study))
    assert (len(result.outcomes), result.exit_status) == (2, 0)
    assert study.trials[0].values == ours.trials[0].values
    assert study.trials[0].user_attrs["settings"] == {}  # of the base, whatever its parameters
    assert study.trials[0].params == {"kappa": 10.0}
    assert len(records(elsewhere.folder)) == 2


def test_what_cannot_be_tried_has_failed_with_its_reason(tmp_path: Path, wanted: Search) -> None:
    plan, search = place(tmp_path, replace(wanted, space=lambda trial: {"kappa": -1.0}, trials=2))
    study = run(replace(search, first=[]), plan)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert "kappa must be " in study.trials[0].user_attrs["error"]
    assert winner(study) is None
    write_search_report(study, search, {}, tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["chosen"] == {}


# --- the proposer alone ----------------------------------------------------------------------------------------------


def metrics(config: Proposal, success: float) -> Outcome:
    assert isinstance(config, TrialConfig)
    numbers = {"accuracy/clean": 0.9, "attack_success": success}
    return Outcome(config.key, config.label, FINISHED, 2.0, metrics=numbers)


def test_cases_of_a_candidate_follow_one_another_and_candidates_run_side_by_side(wanted: Search) -> None:
    proposer = OptunaProposer(wanted, study := open_study(wanted))
    assert proposer.remaining == 3 * 2
    first, second = proposer.next(), proposer.next()
    assert isinstance(first, TrialConfig)
    assert isinstance(second, TrialConfig)
    assert (first.seed, second.seed) == (0, 0)
    assert first.defence != second.defence
    proposer.tell(metrics(first, 0.1))
    third = proposer.next()
    assert isinstance(third, TrialConfig)
    assert (third.seed, third.defence) == (1, first.defence)
    proposer.tell(metrics(third, 0.3))
    assert study.trials[0].values == [0.9, 0.3]
    assert study.trials[0].user_attrs["seconds"] == 4.0


def test_the_first_candidate_is_the_base_to_the_letter(wanted: Search) -> None:
    """Its kappa of 0 means 10: were it written out, the default and the winner would be two settings."""
    proposer = OptunaProposer(wanted, open_study(wanted))
    first, second = proposer.next(), proposer.next()
    assert isinstance(first, TrialConfig)
    assert isinstance(second, TrialConfig)
    assert first.key == wanted.cases[0].key
    assert second.defence != TINY


def test_controls_run_first_and_once(wanted: Search) -> None:
    controls = [replace(CASE, poison_rate=0.0, defence=NoDefence(), seed=seed) for seed in range(2)]
    seen: list[Any] = []

    def compared(cases: Any, metrics: Any, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        seen.append(found)
        return evaluated(cases, metrics, found)

    search = replace(wanted, controls=controls, evaluate=compared, trials=1)
    proposer = OptunaProposer(search, study := open_study(search))
    assert proposer.remaining == 2 + 2
    assert [proposer.next() for _ in range(3)] == [*controls, Signal.WAIT]
    proposer.tell(metrics(controls[0], 0.02))
    assert proposer.next() is Signal.WAIT
    proposer.tell(metrics(controls[1], 0.01))
    for success in (0.2, 0.3):
        proposer.tell(metrics(proposer.next(), success))
    assert proposer.next() is Signal.DONE
    assert {key: one["attack_success"] for key, one in seen[-1].items()} == {
        controls[0].key: 0.02,
        controls[1].key: 0.01,
    }
    assert OptunaProposer(search, study).next() is Signal.DONE  # nothing is left to try: no control is needed


def test_a_control_that_fails_ends_the_search(wanted: Search) -> None:
    control = replace(CASE, poison_rate=0.0, defence=NoDefence())
    search = replace(wanted, controls=[control])
    proposer = OptunaProposer(search, study := open_study(search))
    proposer.tell(Outcome(proposer.next().key, "the twin", FAILED, error="it broke"))  # type: ignore[union-attr]
    assert proposer.next() is Signal.DONE
    assert proposer.failed == "the twin: it broke"
    assert candidates_left(search, study) == 3  # all are tried when the same command is run again


def test_what_exceeds_a_limit_is_a_constraint_of_optuna_s(wanted: Search) -> None:
    search = replace(wanted, trials=3, goals=GOALS, limits={"bad": 0.1})
    proposer = OptunaProposer(search, study := open_study(search))
    for success in (0.05, 0.1, 0.2, 0.2, 0.02, 0.02):
        proposer.tell(metrics(proposer.next(), success))
    beyond = [trial.constraints["bad"] for trial in study.trials]
    assert beyond == pytest.approx([0.0, 0.1, -0.08], abs=1e-8)
    assert [searching.is_feasible(trial) for trial in study.trials] == [True, False, True]  # on the limit is within
    assert [trial.number for trial in study.best_trials] == [2]
    assert study.metric_names == list(GOALS)


def test_encoders_are_shared_by_candidates_and_the_known_ones_come_first() -> None:
    known = ({}, {"view_noise": 0.3})
    drawn = searching.draw_encoders(vibe.encoder_space, known, 5)
    assert list(drawn[:2]) == list(known)
    assert len({json.dumps(one) for one in drawn}) == 5
    assert drawn == searching.draw_encoders(vibe.encoder_space, known, 5)
    assert drawn[:3] == searching.draw_encoders(vibe.encoder_space, known, 3)  # more encoders only add to them
    assert searching.draw_encoders(vibe.encoder_space, known, 1) == [{}]
    for one in drawn:
        assert not replace(Vibe(), **one).check((1, 8, 8), 10)


def test_candidates_choose_among_the_encoders(wanted: Search) -> None:
    search = replace(wanted, encoders=[{"view_noise": noise} for noise in (0.1, 0.2)], trials=20, first=[])
    proposer = OptunaProposer(search, study := open_study(search))
    tried = set()
    while isinstance(config := proposer.next(), TrialConfig):
        assert isinstance(config.defence, Vibe)
        tried.add(config.defence.view_noise)
        proposer.tell(metrics(config, 0.1))
    assert tried == {0.1, 0.2}
    assert {trial.params["encoder"] for trial in study.trials} == {0, 1}


def test_a_candidate_that_lets_an_attack_through_is_cut_short(wanted: Search) -> None:
    proposer = OptunaProposer(replace(wanted, pruner="worst_case", trials=1), study := open_study(wanted))
    proposer.tell(metrics(proposer.next(), 0.6))
    assert proposer.next() is Signal.DONE
    assert study.trials[0].user_attrs["cut_short"] == 1
    assert study.trials[0].state is TrialState.PRUNED
    assert study.trials[0].constraints["bad"] == pytest.approx(0.5)  # samplers learn that it is none to come near
    assert study.best_trials == []
    assert winner(study) is None
    assert candidates_left(proposer.search, study) == 0


def test_a_candidate_whose_last_case_lets_an_attack_through_is_whole(wanted: Search) -> None:
    proposer = OptunaProposer(replace(wanted, pruner="worst_case", trials=1), study := open_study(wanted))
    for success in (0.1, 0.6):
        proposer.tell(metrics(proposer.next(), success))
    assert proposer.next() is Signal.DONE
    assert study.trials[0].values == [0.9, 0.6]
    assert "cut_short" not in study.trials[0].user_attrs


@pytest.mark.parametrize("sampler", list(searching.SAMPLERS))
def test_samplers_go_on_after_candidates_that_were_cut_short(wanted: Search, sampler: str) -> None:
    search = replace(wanted, pruner="worst_case", sampler=sampler, trials=24)
    proposer, number = OptunaProposer(search, study := open_study(search)), 0
    while (config := proposer.next()) is not Signal.DONE:
        proposer.tell(metrics(config, 0.9 if number % 3 == 0 else 0.1))
        number += 1
    states = [trial.state for trial in study.trials]
    assert len(states) == 24
    assert states.count(TrialState.PRUNED) > 5
    assert len(searching.whole(study)) == 24 - states.count(TrialState.PRUNED)


def test_a_case_that_failed_ends_its_candidate_as_failed(wanted: Search) -> None:
    proposer = OptunaProposer(replace(wanted, trials=1), study := open_study(wanted))
    case = proposer.next()
    assert isinstance(case, TrialConfig)
    proposer.tell(Outcome(case.key, "the case", FAILED, error="it broke"))
    assert proposer.next() is Signal.DONE
    assert study.trials[0].state is TrialState.FAIL
    assert study.trials[0].user_attrs["error"] == "the case: it broke"


def test_two_candidates_with_the_same_settings_share_their_trials(wanted: Search) -> None:
    same = replace(wanted, space=lambda trial: {"kappa": 7.0}, trials=2, first=[])
    queue = TrialQueue(OptunaProposer(same, study := open_study(same)))
    ran = []
    while isinstance(config := queue.next(), TrialConfig):
        assert queue.next() is Signal.WAIT  # the other candidate's case is the same trial
        ran.append(config.seed)
        queue.tell(metrics(config, 0.1))
    assert ran == [0, 1]
    assert [trial.values for trial in study.trials] == [[0.9, 0.1]] * 2


def study_of(*values: tuple[float, float] | None, cut: Sequence[int] = (), limit: float = 0.1) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    searching.name_metrics(study, list(GOALS))
    for number, pair in enumerate(values):
        said = dict(zip(GOALS, pair, strict=True)) if pair else {"good": math.nan, "bad": 0.0}
        settings = {"settings": {"kappa": float(number)}}
        cut_short = {"cut_short": 1} if number in cut else {}
        tell_study(study, study.ask(), said | settings | cut_short, GOALS, {"bad": limit})
    return study


def test_the_winner_holds_first_and_is_accurate_second() -> None:
    values = ((0.99, 0.4), (0.95, 0.1), (0.97, 0.05), None, (0.97, 0.01), (0.98, 0.02))
    study = study_of(*values, cut=[5])
    assert [trial.state.name for trial in study.trials].count("FAIL") == 1
    assert winner(study).number == 4  # type: ignore[union-attr]
    assert winner(study_of(*values, cut=[5], limit=0.005)).number == 4  # type: ignore[union-attr]
    assert winner(study_of((0.9, 0.5), (0.8, 0.3))).number == 1  # type: ignore[union-attr]
    assert winner(study, lambda settings: settings["kappa"] < 2).number == 1  # type: ignore[union-attr]
    assert winner(study, lambda settings: False) is None


@pytest.mark.parametrize("state", ["pruned", "as of raybd 0.2"])
def test_the_front_is_of_whole_candidates(wanted: Search, tmp_path: Path, state: str) -> None:
    """A candidate that was cut short has its values from fewer attacks and seeds: here the best there are."""
    study = study_of((0.9, 0.3), (0.99, 0.0), (0.8, 0.1), (0.7, 0.2), cut=[1], limit=1.0)
    if state != "pruned":
        study = optuna.create_study(directions=["maximize", "minimize"])
        searching.name_metrics(study, list(GOALS))
        for number, pair in enumerate([(0.9, 0.3), (0.99, 0.0), (0.8, 0.1), (0.7, 0.2)]):
            trial = study.ask()
            for name, value in zip(GOALS, pair, strict=True):
                trial.set_user_attr(name, value)
            if number == 1:
                trial.set_user_attr("cut_short", 1)
            study.tell(trial, pair)
    for trial in study.get_trials(deepcopy=False):
        trial.user_attrs.update({"seconds": 1.0, "settings": {"kappa": float(trial.number)}})
    best = min(searching.whole(study), key=lambda trial: trial.values[1])
    write_search_report(study, wanted, {"winner": best}, tmp_path)
    report = json.loads((tmp_path / "search.json").read_text())
    told = {one["number"]: one for one in report["candidates"]}
    assert [number for number, one in told.items() if one["front"]] == [0, 2]
    assert told[1]["cut_short"] == 1
    assert told[1]["values"] == {"good": 0.99, "bad": 0.0}
    assert report["chosen"] == {"winner": 2}
    table = front_table(report)
    assert "4 candidates, 0 failed, 1 cut short and not compared" in table
    assert "settings: kappa=2\n" in table
    assert "0.9900" not in table


def test_a_number_that_is_none_leaves_no_trial_running() -> None:
    study = study_of(None, (0.9, math.inf), (0.9, 0.1))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "COMPLETE"]


def test_a_storage_that_cannot_be_opened(wanted: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        open_study(replace(wanted, storage=f"sqlite:///{tmp_path}/no/such/folder/s.db"))
    with pytest.raises(InputError, match="cannot be used"):
        open_study(replace(wanted, storage="nonsense"))
    open_study(wanted)


def other_kappas(trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    return {"kappa": trial.suggest_float("kappa", 5.0, 40.0)}


QUESTIONS: dict[str, tuple[str, Any]] = {
    "attacks": ("attack.name", lambda s: replace(s, cases=[*s.cases, replace(CASE, attack=Blended())])),
    "rates": ("poison_rate", lambda s: replace(s, cases=[replace(case, poison_rate=0.02) for case in s.cases])),
    "seeds": ("seed", lambda s: replace(s, cases=s.cases[:1])),
    "epochs": ("train.epochs", lambda s: replace(s, cases=[replace(c, train=TrainConfig(epochs=2)) for c in s.cases])),
    "data": ("fingerprint", lambda s: replace(s, cases=[replace(case, fingerprint="abc") for case in s.cases])),
    "base": ("base", lambda s: replace(s, base=replace(TINY, iterations=5))),
    "limits": ("limits", lambda s: replace(s, limits={"bad": 0.2})),
    "encoders": ("encoders", lambda s: replace(s, encoders=[{}, {"view_noise": 0.3}])),
    "objective": ("goals", lambda s: replace(s, goals={"agreement": "max", "bad": "min"})),
    "directions": ("goals", lambda s: replace(s, goals={"good": "max", "bad": "max"})),
    "space": ("space", lambda s: replace(s, space=other_kappas)),
}


@pytest.mark.parametrize(("name", "change"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_study_answers_one_question(wanted: Search, name: str, change: Any) -> None:
    open_study(wanted)
    open_study(replace(wanted, trials=30, sampler="random", pruner="worst_case"))  # how it is answered may change
    with pytest.raises(InputError) as caught:
        open_study(change(wanted))
    first, *different = caught.value.problems
    assert "choose another --name" in first
    assert name in [line.partition(":")[0] for line in different]
    assert all(" then, " in line for line in different)
    open_study(wanted)


def test_data_of_a_study_may_lie_elsewhere(wanted: Search) -> None:
    cases = [replace(case, data="npz:a/my.npz", fingerprint="abc") for case in wanted.cases]
    open_study(replace(wanted, cases=cases))
    open_study(replace(wanted, cases=[replace(case, data="npz:/b/my.npz") for case in cases]))


# --- what a candidate is judged by -----------------------------------------------------------------------------------


def judged(
    judge: Judge,
    cases: Sequence[TrialConfig],
    seen: Sequence[Pair],
    before: Sequence[Pair],
) -> dict[str, float]:
    """What `judge` says of (accuracy, success) on the validation images of the cases, and of their controls."""
    tables = [[{"accuracy/validation": a, "attack_success/validation": s} for a, s in rows] for rows in (seen, before)]
    controls = {judge.control(case).key: one for case, one in zip(cases, tables[1], strict=True)}
    return judge(cases, tables[0], controls)


def test_the_map_s_own_rule_worked_by_hand() -> None:
    options = SearchOptions.of(
        attacks=("badnets", "blended"), poison_rates=(0.0, 0.05), widths=(0.5,), weight_decays=(0.0,), search_seeds=2
    )
    cases, judge = search_cases(options), Judge("truth", 0.02, 0.1)
    assert [(case.seed, type(case.attack).__name__) for case in cases] == [
        (0, "BadNets"),
        (0, "Blended"),
        (1, "BadNets"),
        (1, "Blended"),
    ]
    seen = [(1.0, 0.3), (0.8, 0.1), (0.9, 0.1), (0.9, 0.25)]
    twins = [(0.98, 0.1), (0.98, 0.0), (0.94, 0.0), (0.94, 0.15)]
    said = judged(judge, cases, seen, twins)
    # badnets: excess (0.2 + 0.1) / 2, accuracy 0.95; blended: (0.1 + 0.1) / 2, accuracy 0.85; twins' accuracy 0.96
    assert said == pytest.approx({"accuracy": 0.9, "attack_success_excess": 0.15, "accuracy_loss": 0.96 - 0.85})
    assert judge.limits == {"accuracy_loss": 0.02, "attack_success_excess": 0.1}


def test_accuracy_is_lost_against_the_best_training_without_a_defence() -> None:
    options = SearchOptions.of(attacks=("badnets",), poison_rates=(0.05,), widths=(0.5,), weight_decays=(0.0, 0.05))
    cases = search_cases(options)
    said = judged(Judge("truth", 0.02, 0.1), cases, [(0.95, 0.0), (0.97, 0.0)], [(0.99, 0.0), (0.93, 0.0)])
    assert said["accuracy_loss"] == pytest.approx(0.99 - 0.95)


def test_a_control_is_the_clean_twin_without_a_defence() -> None:
    case = search_cases(SearchOptions.of(attacks=("blended",), poison_rates=(0.05,), betas=(0.5,), widths=(0.5,)))[0]
    control = Judge("truth", 0.02, 0.1).control(case)
    assert (control.poison_rate, control.train.beta, control.attack) == (0.0, 1.0, case.attack)
    assert isinstance(control.defence, NoDefence)
    assert not problems(control)


def test_a_defender_s_canary_is_an_attack_of_his_own() -> None:
    options = SearchOptions.of(
        attacks=("badnets:size=1",), poison_rates=(0.05,), objective="canary", widths=(0.5,), target=3
    )
    case = search_cases(options)[0]
    assert isinstance(case.attack, Multi)
    theirs, own = case.attack.members()
    assert (theirs.attack.target, own.attack.target) == (3, 0)
    assert (theirs.share, own.share) == pytest.approx((0.05 / 0.06, 0.01 / 0.06))
    assert case.poison_rate == pytest.approx(0.06)
    assert not problems(case)
    judge = Judge("canary", 0.02, 0.1)
    control = judge.control(case)
    assert control.poison_rate == case.poison_rate  # a defender has no training set without poison
    seen = {"accuracy/validation": 0.8, "attack_success/validation": 0.5}
    seen |= {f"attack_success/validation/{theirs.name}": 0.6, f"attack_success/validation/{own.name}": 0.15}
    said = judge([case], [seen], {control.key: {"accuracy/validation": 0.9}})
    expected = {"agreement": 0.8, "canary_success": 0.15, "accuracy_loss": 0.1, "attack_success_excess": 0.6}
    assert said == pytest.approx(expected)
    assert judge.limits == {"accuracy_loss": 0.02, "canary_success": 0.1}


def test_the_comparison_has_every_attack_and_clean_twins_once() -> None:
    options = SearchOptions.of(
        attacks=("badnets",),
        held_out=("sig",),
        poison_rates=(0.0, 0.05),
        seeds=2,
        widths=(0.5,),
        weight_decays=(0.0, 0.1),
    )
    trials = expand_comparison(options)
    twins = [trial for trial in trials if not trial.poison_rate]
    assert len(twins) == 3 * 2 * 2  # defences x seeds x weight decays
    assert len({trial.key for trial in trials}) == len(trials)
    assert {type(trial.attack).__name__ for trial in trials if trial.poison_rate} == {"BadNets", "Sig"}
    assert {type(trial.defence).__name__ for trial in trials} == {"NoDefence", "Oracle", "Vibe"}


def test_everything_that_is_wrong_is_said_at_once() -> None:
    options = SearchOptions.of(
        attacks=("badnets",),
        held_out=("badnets", "sigg"),
        base="vibes",
        candidates=0,
        sampler="t",
        pruner="p",
        objective="canari",
        poison_rates=(0.0,),
        validation=0.0,
    )
    said = "\n".join(options.problems())
    for part in (
        "sigg",
        "vibes",
        "--candidates",
        "sampler",
        "pruner",
        "canari",
        "--validation",
        "above 0",
        "held out and seen",
    ):
        assert part in said
    assert "held out and seen" in said


@pytest.mark.parametrize("base", [Vibe(), Vibe(kappa=40.0, tuned=False, deploy="linear"), Vibe(kappa_unit="relative")])
def test_every_candidate_of_the_space_is_a_defence(base: Vibe) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    first = vibe.first_candidates(base, 3)
    for one in first:
        study.enqueue_trial(one)
    trials = [study.ask() for _ in range(30)]
    made = [replace(base, **vibe.space(trial)) for trial in trials]
    for defence in made:
        assert not violations(defence)
        assert DEFENCES["vibe"] is type(defence)
    assert {one.deploy for one in made[1:4]} == {"head", "linear", "retrained"}
    assert made[0].deploy == base.deploy
    assert made[0].tuned == base.tuned
    assert all(one.params["kappa_unit"] == "absolute" for one in trials[1:4])


def test_another_defence_than_vibe_is_not_searched() -> None:
    (said,) = SearchOptions.of(base="abl").problems()
    assert "--base must be vibe" in said


def test_passes_for_estimates_counted_by_hand() -> None:
    assert NoDefence().passes(20, 1000) == 20
    plain = Vibe(pretrain_epochs=30, tuned=False)
    assert plain.passes(20, 1024) == 2 * 30
    assert replace(plain, tuned=True, batch_size=256).passes(20, 1024) == 2 * 30 + 1000 / 4  # 1,000 M-steps or more
    assert replace(plain, tuned=True, iterations=40, batch_size=256).passes(20, 1024) == 2 * 30 + 10
    assert replace(plain, deploy="retrained").passes(20, 1024) == 2 * 30 + 20
    assert replace(plain, deploy="retrained", retrain_epochs=7, features="own").passes(20, 1024) == 7
