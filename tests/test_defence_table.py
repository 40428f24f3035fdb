"""Defences side by side: who is compared with whom, and DER by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.defences import compare_defences, defence_figure, defence_ranking, defence_table


def run(defence: str, attack: str, seed: int, acc: float, asr: float, kappa: object = None) -> dict[str, object]:
    return {
        "status": "FINISHED",
        "params.defence.name": defence,
        "params.defence.kappa": kappa,
        "params.attack.name": attack,
        "params.poison_rate": "0.1",
        "params.seed": str(seed),
        "metrics.accuracy/clean": acc,
        "metrics.attack_success": asr,
        "metrics.accuracy/robust": 1 - asr,
        "metrics.seconds/trial": 2.0,
    }


RUNS = pd.DataFrame(
    [
        run("none", "badnets", 0, 0.9, 1.0),
        run("none", "badnets", 1, 0.8, 0.2),
        run("none", "sig", 0, 0.9, 0.5),
        run("vibe", "badnets", 0, 0.85, 0.1, "10.0"),
        run("vibe", "badnets", 1, 0.9, 0.3, "10.0"),
        run("vibe", "badnets", 0, 0.5, 0.5, "3.0"),
        run("vibe", "sig", 0, 0.9, 0.0, "10.0"),
        run("vibe", "badnets", 0, 0.0, 0.0, "10.0") | {"status": "FAILED"},
    ]
)
NAMED = {"none": {"name": "none"}, "mine": {"name": "vibe", "kappa": 10.0}}


def test_der_against_the_undefended_trial_of_the_same_seed() -> None:
    table = compare_defences(RUNS, NAMED)
    mine = table[table["defence"] == "mine"].set_index(["attack", "seed"])["DER"]
    assert mine["badnets", 0] == pytest.approx((0.9 - 0.05 + 1) / 2)
    assert mine["badnets", 1] == pytest.approx(0.5)  # neither gained on the attack nor lost accuracy
    assert mine["sig", 0] == pytest.approx(0.75)
    assert (table[table["defence"] == "none"]["DER"] == 0.5).all()


def test_only_the_settings_that_were_asked_for_and_only_finished_trials() -> None:
    table = compare_defences(RUNS, NAMED)
    assert len(table) == 6
    shuffled = compare_defences(RUNS.sample(frac=1, random_state=0), NAMED)
    assert shuffled["DER"].sum() == pytest.approx(table["DER"].sum())
    assert len(compare_defences(RUNS, {"other": {"name": "vibe", "kappa": 3.0}})) == 1
    assert compare_defences(RUNS, {"absent": {"name": "abl"}}).empty


def test_the_table_in_words() -> None:
    text = defence_table(compare_defences(RUNS, NAMED), held_out=["sig"])
    lines = text.splitlines()
    assert lines[0].split() == ["attack", "rate", "seeds", "none", "mine"]
    assert "85.0 ± 7.1 / 60.0 ± 56.6" in lines[1]
    assert lines[2].startswith("sig *")
    assert lines[3].split()[1:] == ["85.0", "/", "60.0", "87.5", "/", "20.0"]  # the worst of each, over attacks
    assert "never seen" in lines[-1]


def test_the_figure_has_a_number_in_each_measured_cell() -> None:
    figure = defence_figure(compare_defences(RUNS, NAMED))
    numbers = [float(text.get_text()) for text in figure.axes[0].texts]
    assert np.allclose(sorted(numbers), [0.0, 20.0, 50.0, 60.0])


def test_defences_are_compared_at_the_same_setting_only() -> None:
    wide = RUNS.assign(**{"params.model.width": "1.0"})
    narrow = RUNS.assign(**{"params.model.width": "0.5", "metrics.accuracy/clean": RUNS["metrics.accuracy/clean"] / 2})
    table = compare_defences(pd.concat([wide, narrow]), NAMED)
    assert (table[table["defence"] == "none"]["DER"] == 0.5).all()
    mine = table[table["defence"] == "mine"].set_index(["width", "attack", "seed"])["DER"]
    assert mine[1.0, "badnets", 0] == pytest.approx((0.9 - 0.05 + 1) / 2)
    assert mine[0.5, "badnets", 0] == pytest.approx((0.9 - 0.025 + 1) / 2)
    heads, *lines = defence_table(table).splitlines()
    assert "width" in heads
    assert len(lines) == 5  # two attacks at two widths, and the worst
    assert len(defence_ranking(table, {}).splitlines()) == 5  # two defences at two widths


def test_the_ranking_puts_the_best_first_and_says_what_it_needs() -> None:
    lines = defence_ranking(compare_defences(RUNS, NAMED), {"mine": "training set"}).splitlines()
    assert lines[0].split()[:5] == ["defence", "needs", "seconds", "DER", "RIR"]
    assert lines[1].startswith("mine")
    assert "training set" in lines[1]
    der = ((0.9 - 0.05 + 1) / 2 + 0.5 + 0.75) / 3
    rir = ((0.9 - 0.05 + 1) / 2 + 0.5 + (0.5 + 1) / 2) / 3
    assert f"{100 * der:.1f}  {100 * rir:.1f}" in lines[1]
    assert lines[2].startswith("none")
    assert "50.0  50.0" in lines[2]
