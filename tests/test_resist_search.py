"""The searches of `raybd resist` on made-up trainings: edges and changes that are known."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from scipy.special import expit

from analysis.resist.changes import ChangeSearch
from analysis.resist.curve import Curve
from analysis.resist.edge import Edge, EdgeSearch
from analysis.resist.trainings import Ask, Asks, Budget, Outcome, Trainings
from raybd.scripts.knobs import parse_knobs

TOTAL, IMAGES = 1000, 450
Rates = Callable[[Ask], tuple[float, float]]  # what is asked -> attack success, clean accuracy


def answer(trainings: Trainings, steps: Asks, rates: Rates) -> int:
    """Run a search on made-up rates; how many trainings it asked for."""
    asked = 0
    for round_ in steps:
        assert len(set(round_)) == len(round_)
        for ask in round_:
            success, accuracy = rates(ask)
            metrics = {"attack_success": success, "accuracy/clean": accuracy, "seconds/train": 1.0}
            counts = {"count/clean": 500.0, "count/triggered": float(IMAGES)}
            trainings.add(ask, Outcome(metrics | counts))
            asked += 1
    return asked


def sigmoid(edge: float, slope: float, noise: float, seed: int, base: float = 0.03) -> Rates:
    """Attack success that rises from `base` to 0.95 over the log of the count; each seed strays in logits."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, noise, 100)
    start = edge * math.exp(-math.log(0.1 / (0.92 - 0.1)) / slope)  # so that the excess is 0.1 at `edge`

    def rates(ask: Ask) -> tuple[float, float]:
        rise = expit(slope * math.log(ask.count / start) + own[ask.seed] + rng.normal(0, noise)) if ask.count else 0
        return rng.binomial(IMAGES, base + (0.95 - base) * rise) / IMAGES, 0.95

    return rates


def found(rates: Rates, budget: int = 40) -> Edge:
    trainings = Trainings(TOTAL)
    search = EdgeSearch("a", (2, 300), trainings, budget=budget)
    assert answer(trainings, search.steps(), rates) <= budget
    return search.result()


@pytest.mark.parametrize("edge", [5, 80])
def test_a_steep_edge_is_found_within_a_tenth(edge: int) -> None:
    one = found(sigmoid(edge, slope=5, noise=0.2, seed=edge))
    assert one.kind == "edge"
    assert one.rate * TOTAL == pytest.approx(edge, rel=0.15)
    assert one.low <= one.rate <= one.high
    assert one.trainings <= 40


def test_a_step_is_bracketed_exactly() -> None:
    one = found(lambda ask: (0.9 if ask.count >= 37 else 0.02, 0.95))
    assert one.low * TOTAL < 37 <= one.high * TOTAL
    assert one.high / one.low < 1.3


def test_no_edge_is_told_as_such_with_the_rates_that_were_tried() -> None:
    always, never = found(lambda ask: (0.9 if ask.count else 0.1, 0.95)), found(lambda ask: (0.15, 0.85))
    assert (always.kind, never.kind) == ("always", "never")
    for one in (always, never):
        assert math.isnan(one.rate)
        assert (one.lowest, one.highest) == (0.002, 0.3)
        assert one.trainings <= 40


def test_a_clean_network_of_two_classes_that_errs_is_not_called_backdoored() -> None:
    """15 % of triggered images go to the target without poison: the excess alone counts."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        one = found(lambda ask: (rng.binomial(IMAGES, rng.normal(0.15, 0.02)) / IMAGES, 0.85), budget=20)
        assert one.kind == "never"
        assert not any(judged.takes_hold for judged in one.judged.values())


def test_failed_trainings_leave_the_edge_unknown() -> None:
    trainings = Trainings(TOTAL)
    search = EdgeSearch("a", (2, 300), trainings, budget=40)
    for round_ in search.steps():
        for ask in round_:
            trainings.add(ask, Outcome(error="out of luck"))
    assert search.result().kind == "unknown"
    assert "failed" in search.result().note
    assert len(trainings.known) < 20


def test_the_crossing_is_that_of_a_straight_line_in_the_log() -> None:
    curve = Curve([10, 40], np.array([[0.0, 0.0, 0.0], [0.2, 0.2, 0.2]]), 0.1)
    rate, low, high = curve.edge() or (0.0, 0.0, 0.0)
    assert (rate, low, high) == (pytest.approx(20), 10, 40)  # seeds that agree leave the bracket


def test_the_jackknife_is_that_of_a_mean_where_the_line_is_straight() -> None:
    """On a curve whose crossing is linear in the seeds' shifts: its error is s / sqrt(n), with Student's t."""
    shifts = np.array([-0.02, 0.01, 0.0, 0.03, -0.01])
    counts = [int(2**k) for k in range(0, 12, 1)]
    excess = np.array([[0.02 * k + shift for shift in shifts] for k in range(12)])
    _, low, high = Curve(counts, excess, 0.1).edge() or (0, 0, 0)
    error = shifts.std(ddof=1) / math.sqrt(5) / 0.02 * math.log(2)
    centre = math.log(2) * (0.1 - shifts.mean()) / 0.02
    assert math.log(low) == pytest.approx(centre - 2.13185 * error, abs=1e-4)  # t of 4 degrees, 95 %
    assert math.log(high) == pytest.approx(centre + 2.13185 * error, abs=1e-4)


@pytest.mark.calibration
def test_the_interval_holds_the_edge_about_as_often_as_it_says() -> None:
    held, near = [], []
    for draw in range(60):
        edge = 8 + 3 * (draw % 20)
        one = found(sigmoid(edge, slope=3, noise=0.3, seed=draw))
        held.append(one.low * TOTAL <= edge <= one.high * TOTAL)
        near.append(abs(math.log(one.rate * TOTAL / edge)) < math.log(1.5))
    assert np.mean(held) >= 0.85
    assert np.mean(near) >= 0.95


# --- changes -------------------------------------------------------------------------


def searched(rates: Rates, knobs: list[str], defaults: list[str], budget: int = 60) -> tuple[ChangeSearch, int]:
    parsed, trainings = parse_knobs(knobs, defaults), Trainings(TOTAL)
    targets = [("badnets", 20), ("blended", 20)]
    search = ChangeSearch(parsed, targets, trainings, Budget(budget, trainings), known_open=True)
    usual = [Ask(attack, 0, seed, search.default) for attack, _ in targets for seed in range(5)]
    answer(trainings, iter([usual]), rates)
    return search, answer(trainings, search.steps(), rates)


def planted(
    holds: Callable[[str, Mapping[str, float]], bool], accuracy: Callable[[Mapping[str, float]], float]
) -> Rates:
    rng = np.random.default_rng(0)

    def rates(ask: Ask) -> tuple[float, float]:
        values = {name: float(value) for name, value in ask.knobs}
        success = 0.02 if not ask.count or holds(ask.attack, values) else 0.6
        return success + rng.uniform(0, 0.02), accuracy(values) + rng.uniform(-0.01, 0.01)

    return rates


def test_the_smallest_step_of_one_knob_that_holds_is_proposed() -> None:
    rates = planted(lambda _, v: v["decay"] >= 0.03, lambda v: 0.95)
    search, _ = searched(rates, ["decay=1e-4..1:log", "epochs=5,10,20"], ["decay=1e-4", "epochs=20"])
    best = search.best()
    assert best is not None
    assert best.verified
    assert best.changed == ("decay",)
    assert 0.03 <= dict(best.knobs)["decay"] < 0.07
    assert best.seeds >= 5
    assert best.excess.high < 0.1
    assert len(search.budget.spent) <= 60


def test_a_change_that_costs_too_much_accuracy_is_not_proposed_and_a_middle_one_is() -> None:
    """The end of the line is a network that has learnt nothing, and obeys the trigger by chance."""
    rates = planted(lambda _, v: 0.02 <= v["decay"] <= 0.3, lambda v: 0.95 if v["decay"] < 0.2 else 0.3)
    best = searched(rates, ["decay=1e-4..1:log"], [])[0].best()
    assert best is not None
    assert best.verified
    assert 0.02 <= dict(best.knobs)["decay"] < 0.2


def share_of(ask: Ask) -> float:
    """How far the knob `decay` is on its way from 1e-4 to 1."""
    return (math.log10(float(dict(ask.knobs)["decay"])) + 4) / 4


def test_a_step_between_one_that_nearly_holds_and_one_that_loses_accuracy_is_found() -> None:
    """Two seeds of 0.625 keep accuracy, all five do not; at half the way the excess is just below the limit."""

    def rates(ask: Ask) -> tuple[float, float]:
        share = share_of(ask)
        middle = 0.045 if ask.seed < 2 else 0.085
        lost = 0.2 if share > 0.65 else middle if share > 0.6 else 0.01
        return 0.02 + (0.19 * (1 - share) if ask.count else 0.0), 0.95 - lost

    search, _ = searched(rates, ["decay=1e-4..1:log"], [])
    best = search.best()
    assert best is not None
    assert best.verified
    assert share_of(Ask("", 0, 0, best.knobs)) == pytest.approx(0.5625, abs=0.002)


def test_what_is_far_beyond_a_limit_takes_one_seed() -> None:
    """Of both ends of a line alone, which let the attack in and lose accuracy, two trainings and one."""
    search, asked = searched(lambda ask: (0.9 if ask.count else 0.0, 0.95), ["epochs=5,10"], ["epochs=10"])
    assert (asked, search.verified) == (2, [])
    search, asked = searched(
        lambda ask: (0.9 if ask.count else 0.0, 0.95 if float(dict(ask.knobs)["epochs"]) == 10 else 0.5),
        ["epochs=5,10"],
        ["epochs=10"],
    )
    assert (asked, search.verified) == (1, [])


def test_two_knobs_are_changed_where_none_alone_holds() -> None:
    rates = planted(lambda _, v: v["decay"] >= 0.05 and v["epochs"] <= 10, lambda v: 0.95)
    best = searched(rates, ["decay=1e-3..1:log", "epochs=5,10,20"], ["epochs=20"], budget=90)[0].best()
    assert best is not None
    assert best.verified
    assert set(best.changed) == {"decay", "epochs"}


def test_a_word_that_holds_is_found_among_words() -> None:
    def holds(attack: str, values: Mapping[str, float]) -> bool:
        return False

    rates = planted(holds, lambda v: 0.95)

    def by_word(ask: Ask) -> tuple[float, float]:
        words = dict(ask.knobs)
        plain = Ask(ask.attack, 0 if words["how"] == "filter" else ask.count, ask.seed)
        return rates(plain)

    best = searched(by_word, ["how=plain,mixup,filter"], [])[0].best()
    assert best is not None
    assert best.verified
    assert dict(best.knobs) == {"how": "filter"}


def test_where_nothing_holds_the_best_is_told_unverified_and_the_budget_kept() -> None:
    rates = planted(lambda attack, v: attack == "badnets", lambda v: 0.95)
    search, _ = searched(rates, ["decay=1e-4..1:log", "epochs=5,10,20"], ["epochs=20"])
    best = search.best()
    assert best is not None
    assert not best.verified
    assert best.worst == "blended at 0.02"
    assert best.excess.value > 0.5
    assert len(search.budget.spent) <= 60


def test_one_attack_alone_is_no_reason_for_a_change() -> None:
    """A change must hold against both: badnets is kept out from 0.01 on, blended from 0.1 on."""
    rates = planted(lambda attack, v: v["decay"] >= {"badnets": 0.01, "blended": 0.1}[attack], lambda v: 0.95)
    best = searched(rates, ["decay=1e-4..1:log"], [])[0].best()
    assert best is not None
    assert best.verified
    assert dict(best.knobs)["decay"] >= 0.1


def test_the_loss_of_accuracy_is_paired_by_seed_with_student_s_t() -> None:
    parsed, trainings = parse_knobs(["k=0,1"], []), Trainings(TOTAL)
    search = ChangeSearch(parsed, [("badnets", 20)], trainings, Budget(60, trainings))
    for seed, (usual, other) in enumerate(zip((0.9, 0.92, 0.94), (0.88, 0.91, 0.91), strict=True)):
        search.trainings.add(Ask("badnets", 0, seed, search.default), Outcome({"accuracy/clean": usual}))
        search.trainings.add(Ask("badnets", 0, seed, (("k", 1),)), Outcome({"accuracy/clean": other}))
    loss = search.loss((("k", 1),))
    assert loss.value == pytest.approx(0.02)
    assert loss.high == pytest.approx(0.02 + 2.91999 * 0.01 / math.sqrt(3), abs=1e-5)  # t of 2 degrees, 95 %
