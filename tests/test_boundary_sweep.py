"""`sweeps/boundary.py`: rounds, budget, ends, resuming, failures, and what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from raybd.command_line import command
from raybd.command_line.boundary_options import BoundaryOptions
from raybd.command_line.options import SweepOptions
from raybd.errors import InputError
from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Signal
from raybd.tracking import load_runs
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED
from raybd.trials.validate import prepare
from sweeps.boundary import (
    FILE,
    PRESETS,
    BoundaryProposer,
    BoundarySearch,
    every_trial,
    expand,
    search,
    summarise,
)

RATES, DECAYS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
SMALL = PRESETS["quick"].replace(
    attacks=("badnets",),
    poison_rates=RATES,
    weight_decays=DECAYS,
    widths=(0.5,),
    batch=3,
    probes=(20,),
    compare=False,
)


def planted_runs(trials: Sequence[TrialConfig], fails: Sequence[float] = ()) -> pd.DataFrame:
    """What the store would hold: badnets gets through from a rate of half the weight decay on, blended of all of it."""
    rows = []
    for trial in trials:
        name, decay = trial.params["attack.name"], trial.train.weight_decay
        edge = decay * (0.5 if name == "badnets" else 1.0)
        noise = np.random.default_rng([trial.seed, round(1e6 * decay), round(1e6 * trial.poison_rate)]).normal()
        taken = expit(-2.2 + 5 * np.log10(trial.poison_rate / edge) + 0.4 * noise) if trial.poison_rate else 0.0
        row = {f"params.{n}": str(v) for n, v in trial.params.items()} | {"tags.raybd.key": trial.key}
        row |= {"run_id": trial.key, "status": "FINISHED", "start_time": pd.Timestamp(0, tz="UTC")}
        row |= {"metrics.accuracy/clean": 0.98, "metrics.attack_success": taken}
        row |= {"metrics.count/clean": 500.0, "metrics.count/triggered": 450.0}
        if trial.poison_rate in fails:
            row |= {"status": "FAILED", "metrics.accuracy/clean": np.nan, "metrics.attack_success": np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


class Played:
    """The search with planted trials in place of trainings: what it asked for, round by round."""

    def __init__(self, fails: Sequence[float] = ()) -> None:
        self.fails = fails
        self.rounds: list[list[str]] = []
        self.reason = ""

    def __call__(self, options: BoundaryOptions) -> list[TrialConfig]:
        asked: list[TrialConfig] = []
        known = prepare(every_trial(options))[0]

        def load() -> pd.DataFrame:
            return planted_runs(asked, self.fails).sample(frac=1, random_state=len(self.rounds))

        proposer = BoundaryProposer(BoundarySearch(options, known), load)
        while (proposal := proposer.next()) is not Signal.DONE:
            new = [proposal]
            while isinstance(more := proposer.next(), TrialConfig):
                new.append(more)
            assert more is Signal.WAIT  # for the whole round
            trials = [trial for trial in new if isinstance(trial, TrialConfig)]
            asked += trials
            self.rounds.append([trial.key for trial in trials])
            for trial in trials:
                proposer.tell(Outcome(trial.key, trial.label, FINISHED))
        self.reason = proposer.reason
        assert proposer.chosen == asked
        return asked


def test_the_rounds_keep_to_the_budget_and_find_the_edge() -> None:
    play = Played()
    options = SMALL.replace(attacks=("badnets", "blended"), stop_decades=0.01, budget=84)
    chosen = play(options)
    assert len(chosen) == len({trial.key for trial in chosen}) <= 84
    assert [t.key for t in chosen] == [key for keys in play.rounds for key in keys]
    assert len(play.rounds[0]) == 2 * 3 + 2 * 5 * 3
    assert all(len(keys) <= 9 for keys in play.rounds[1:])
    active = BoundarySearch(options, prepare(every_trial(options))[0])
    _, found = active.boundary(planted_runs(chosen))
    assert found is not None
    table = found.to_frame()
    edge = table["train.weight_decay"] * np.where(table["attack.name"] == "badnets", 0.5, 1.0)
    clipped = np.clip(edge, 0.0025, 0.08)
    off = np.abs(np.log10(table["largest defended"].fillna(0.0025) / clipped))
    assert off.median() <= 0.1
    assert off.max() <= 0.25


def test_the_same_search_again_asks_for_the_same() -> None:
    """It replays itself, whatever order its runs came in: that is what resuming rests on."""
    options, once = SMALL.replace(stop_decades=0.01), Played()
    first = once(options)
    again = Played()
    assert [t.key for t in again(options)] == [t.key for t in first]
    assert again.rounds == once.rounds
    longer = Played()
    longer(options.replace(budget=len(first) + 9))
    assert longer.rounds[: len(once.rounds) - 1] == once.rounds[:-1]


def test_a_wide_stop_ends_once_no_cell_is_far_from_what_was_measured() -> None:
    """However wide a band may be: before space is filled, a surface knows nothing of an island or a hole."""
    play = Played()
    chosen = play(SMALL.replace(stop_decades=5.0, budget=126))
    assert play.reason == "the band is nowhere wider than 5 decades, and each cell is at most a step from an asked one"
    asked = {(RATES.index(t.poison_rate), DECAYS.index(t.train.weight_decay)) for t in chosen if t.poison_rate}
    steps = [min(abs(i - k) + abs(j - n) for k, n in asked) for i in range(6) for j in range(6)]
    assert max(steps) == 1
    assert 10 <= len(asked) <= 18  # 10: the domination number of a grid of 6 x 6
    spent = Played()
    assert len(spent(SMALL.replace(stop_decades=1e-6, budget=24))) == 24  # one cell fits, not the three of a batch
    assert spent.reason == "the budget of 24 trials is spent"


@pytest.mark.parametrize("fails", [(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), (0.01,), (0.08,)])
def test_failing_trials_do_not_loop(fails: Sequence[float]) -> None:
    play = Played(fails)
    options = SMALL.replace(stop_decades=1e-6, budget=60)
    chosen = play(options)
    assert len(chosen) <= 60
    failed = [t for t in chosen if t.poison_rate in fails]
    assert {t.seed for t in failed} <= {0, 1, 2}  # none is asked for again
    assert play.reason


def test_real_trials_resume_and_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On networks: a second run has nothing to do; with the grid beside it, the search's own trials stay the same."""
    uri = f"sqlite:///{tmp_path}/m.db"
    args = (
        "--inline --attacks badnets --model tests.misbehaving:healthy --widths 1 --epochs 2 --probes 2 --seeds 2"
        " --batch 1 --poison-rates 0.01 0.03 0.1 --weight-decays 0.001 0.1 --budget 18"
        f" --figures none --tracking-uri {uri} --results {tmp_path}/r"
    ).split()
    assert command.main(PRESETS, summarise, [*args, "--no-compare"], search, expand) == 0
    first = load_runs("boundary", uri)
    said = capsys.readouterr().out
    assert len(first) <= 18
    assert "The search ended: " in said
    assert "of 6 cells are measured" in said
    assert "apart" not in said.partition("The boundary along")[0]
    chosen = json.loads((tmp_path / "r" / "boundary" / FILE).read_text())["chosen"]
    assert sorted(chosen) == sorted(first["tags.raybd.key"])

    assert command.main(PRESETS, summarise, [*args, "--compare"], search, expand) == 0
    said = capsys.readouterr().out
    assert "Against the whole grid" in said
    assert json.loads((tmp_path / "r" / "boundary" / FILE).read_text())["chosen"] == chosen
    runs = load_runs("boundary", uri)
    assert set(first["run_id"]) <= set(runs["run_id"])
    assert len(runs) == len(set(runs["tags.raybd.key"]))
    table = pd.read_csv(tmp_path / "r" / "boundary" / "boundary.csv")
    assert {"largest defended", "largest defended (grid)", "apart"} <= set(table)
    assert list((tmp_path / "mlruns").rglob("report.html"))
    assert list((tmp_path / "mlruns").rglob(FILE))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stop_decades": 0.0}, "--stop-decades must be above 0, got 0"),
        ({"stop_decades": float("nan")}, "--stop-decades must be above 0, got nan"),
        ({"budget": 17}, "--budget 17 is less than the 21 trials of the first cells and clean twins"),
        ({"budget": 0}, "--budget must be at least 1, got 0"),
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"most_seeds": 2}, "--most-seeds must be at least 3, as many as --seeds, got 2"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"patience": 3}, "would bias attack success"),
        ({"poison_rates": (0.0,)}, "--poison-rates must have one above 0"),
        ({"poison_rates": (0.01,)}, r"--along poison_rate: no axis of two values above 0 \(train.weight_decay\)"),
        ({"poison_rates": (0.01,), "weight_decays": (0.1,)}, "no axis of numbers"),
        ({"along": "depth"}, "--along depth: no axis"),
    ],
)
def test_what_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        expand(SMALL.replace(**wrong))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        expand(SMALL.replace(stop_decades=-1, batch=0, patience=1))
    assert len(caught.value.problems) == 3


def test_the_default_is_a_quarter_of_its_grid() -> None:
    options = PRESETS["quick"]
    grid = expand(options.replace(compare=True))
    active = BoundarySearch(options, grid)
    assert (len(grid), active.budget) == (2 * 6 * 5 * 2 * 3 + 6 * 2 * 3, 99)
    assert len(expand(options.replace(compare=False))) < 99
    assert isinstance(options, SweepOptions)
