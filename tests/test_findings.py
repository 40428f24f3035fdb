"""The sentences on a sweep, on made frames of which the truth is known."""

import re
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.decision import DecisionRule
from analysis.findings import findings
from analysis.findings.missing import seeds_needed
from analysis.verdict import Estimate, Verdict
from raybd.metrics.smoothing.conclusion import judge_smoothing

Row = dict[str, object]
STRAY = (-1.0, 0.0, 1.0, -0.6, 0.6, -0.3, 0.3, -0.8, 0.8, 0.0)  # of seeds around their mean


def cell(
    success: float, rate: float, accuracy: float = 0.97, seeds: int = 3, spread: float = 0.01, **parameters: object
) -> list[Row]:
    """The trials of a setting, with attack success around `success`; the parameter a__b is a.b."""
    named = {name.replace("__", "."): value for name, value in parameters.items()}
    base: Row = {"attack.name": "badnets", "poison_rate": rate, "clean_count": 2000, "triggered_count": 1800, **named}
    rows = [(float(np.clip(success + spread * z, 0, 1)), accuracy + 0.001 * z) for z in STRAY[:seeds]]
    return [{**base, "seed": s, "attack_success": a, "clean_accuracy": c} for s, (a, c) in enumerate(rows)]


def grid(attack: str, excess: Sequence[float], weight_decay: float, rates: Sequence[float] = (0.01, 0.05)) -> list[Row]:
    """A clean twin and a setting at each rate."""
    setting = {"attack__name": attack, "train__weight_decay": weight_decay}
    cells = [cell(e + 0.01, rate, **setting) for e, rate in zip(excess, rates, strict=True)]  # type: ignore[arg-type]
    return [row for rows in [cell(0.01, 0.0, **setting), *cells] for row in rows]  # type: ignore[arg-type]


def told(*parts: list[Row], **rule: object) -> list[str]:
    rows = [row for part in parts for row in part]
    sentences = findings(DefendedRegionMap.from_frame(pd.DataFrame(rows), **rule))  # type: ignore[arg-type]
    assert len(sentences) <= 8
    assert all(sentence.endswith(".") and "nan" not in sentence for sentence in sentences)
    return sentences


def about(sentences: Sequence[str], start: str) -> str:
    (found,) = [sentence for sentence in sentences if sentence.startswith(start)]
    return found


def test_where_each_attack_takes_hold() -> None:
    """BadNets holds from 1 % on at one setting and from 5 % on at both; WaNet nowhere."""
    sentences = told(
        grid("badnets", (0.5, 0.9), 5e-4), grid("badnets", (0.0, 0.8), 0.04), grid("wanet", (0.0, 0.02), 5e-4)
    )
    assert sentences[0].startswith("Of 6 settings with poison, 3 are defended and 3 backdoored (a verdict needs a prob")
    where = about(sentences, "Where an attack takes hold without a defence")
    assert re.search(
        r"badnets first at 1% poison \(50\.0 points \(\S+ to \S+\) at weight_decay=0\.0005\), "
        r"at every setting from 5% on; ",
        where,
    )
    assert re.search(r"wanet surely nowhere up to 5% \(most: 2\.0 points \(.*\) at 5%", where)


def test_data_sets_are_told_apart() -> None:
    """BadNets takes hold on one and not on the other, and the best clean training of each has its own accuracy."""
    parts = [
        [{**row, "data": data, "clean_accuracy": float(str(row["clean_accuracy"])) - off} for row in rows]
        for data, off, rows in (
            ("digits", 0.0, grid("badnets", (0.5, 0.9), 5e-4)),
            ("mnist", 0.3, grid("badnets", (0.0, 0.0), 5e-4)),
        )
    ]
    sentences = told(*parts)
    assert re.search(r"reaches 97\.0% \([^)]*\) on digits, 67\.0% \([^)]*\) on mnist\.", sentences[0])
    where = about(sentences, "Where an attack takes hold")
    assert "badnets on digits first at 1% poison" in where
    assert "badnets on mnist surely nowhere up to 5%" in where


def test_the_setting_that_keeps_an_attack_out_and_its_cost() -> None:
    sentences = told(grid("badnets", (0.5, 0.9), 5e-4), grid("badnets", (0.0, 0.8), 0.04))
    kept = about(sentences, "Without a defence, weight_decay=0.04 is defended at 1 of 2 pairs of attack and rate")
    assert "(badnets at 1%)" in kept
    assert re.search(r"clean accuracy at most -?\d\.\d points \(.*\) under the best clean training\.$", kept)


def test_what_keeps_out_only_at_a_loss_says_the_loss() -> None:
    strong = {"attack__name": "badnets", "train__weight_decay": 0.1}
    weak = [cell(0.01, 0.01, accuracy=0.90, **strong), cell(0.01, 0.0, accuracy=0.90, **strong)]  # type: ignore[arg-type]
    kept = about(told(grid("badnets", (0.5, 0.9), 5e-4), *weak), "Without a defence, weight_decay=0.1 is kept out at 1")
    assert re.search(r"only at a loss: clean accuracy is at least [67]\.\d points", kept)


def test_nothing_keeps_it_out() -> None:
    sentences = told(grid("badnets", (0.5, 0.9), 5e-4), grid("badnets", (0.3, 0.8), 0.04))
    none = about(sentences, "No setting without a defence surely keeps out")
    assert re.search(r"30\.0 points \(.* to .*\) above", none)
    assert "badnets at 1%, weight_decay=0.04" in none


def test_one_setting_alone_tells_nothing_of_what_keeps_it_out() -> None:
    sentences = told([row | {"train.weight_decay": 0.1} for row in cell(0.0, 0.0) + cell(0.9, 0.01)])
    assert about(sentences, "What setting keeps a backdoor out cannot be told")


def defended_by(name: str, success: float, accuracy: float = 0.965) -> list[Row]:
    clean = cell(0.01, 0.0, accuracy, defence__name=name)
    return clean + [row for rate in (0.01, 0.05) for row in cell(success, rate, accuracy, defence__name=name)]


@pytest.mark.parametrize(
    ("success", "said"),
    [
        (0.02, r"vibe is defended at 2 of 2 settings \(badnets at 1%, badnets at 5%\) .* by -69\.0 points \("),
        (0.60, r"vibe is defended at 0 of 2 settings where .* by -11\.0 points"),
    ],
)
def test_whether_a_defence_kept_it_out(success: float, said: str) -> None:
    """Without it 51 and 91 % of triggered images reach the target: with it all but `success`."""
    none = [row | {"defence.name": "none"} for row in cell(0.01, 0.0) + cell(0.51, 0.01) + cell(0.91, 0.05)]
    assert re.search(said, about(told(none, defended_by("vibe", success)), "Defences: "))


def test_a_defence_where_nothing_takes_hold_without_it_is_not_praised() -> None:
    none = [row | {"defence.name": "none"} for row in cell(0.01, 0.0) + cell(0.02, 0.01)]
    sentence = about(told(none, defended_by("vibe", 0.02)), "Defences: ")
    assert "measured at no setting where an attack surely takes hold without it" in sentence


def test_no_sentence_on_what_was_not_measured() -> None:
    sentences = told(cell(0.01, 0.0) + cell(0.02, 0.05))
    assert [s.split()[0] for s in sentences] == ["Of", "Where"]  # nothing holds, nothing is open, no defence


def test_no_poison() -> None:
    (sentence,) = told(cell(0.01, 0.0))
    assert sentence.startswith("No setting with poison was measured")
    assert "97.0% (" in sentence


def test_no_clean_twins() -> None:
    sentences = told(cell(0.9, 0.05) + cell(0.02, 0.01))
    assert "no clean twin was measured" in about(sentences, "Where an attack takes hold")
    missing = about(sentences, "Not told: 1 of 2 settings with poison is undecided")
    assert "add poison rate 0" in missing


def test_a_clean_training_that_saw_no_trigger_is_no_twin() -> None:
    """Sweeps that share their twins log them without an attack: their attack success is that of no trigger."""
    shared: list[Row] = [{**row, "attack.name": "none"} for row in cell(0.01, 0.0)]
    badnets = cell(0.9, 0.05)
    assert "no clean twin was measured" in about(told(shared, badnets), "Where an attack takes hold")
    with_own = told(shared, badnets, grid("wanet", (0.6, 0.8), 5e-4))
    assert "above the clean twins' where there are, 90% interval" in about(with_own, "Where an attack takes hold")


def test_all_defended_and_none_undecided() -> None:
    sentences = told(grid("badnets", (0.0, 0.02), 5e-4), grid("badnets", (0.01, 0.0), 0.04))
    assert sentences[0].startswith("Of 4 settings with poison, 4 are defended (")
    assert "surely nowhere up to 5%" in sentences[1]
    assert len(sentences) == 2


def test_all_undecided_says_how_many_seeds_would_decide() -> None:
    clean = cell(0.01, 0.0, spread=0.001, seeds=3)
    open_ = [row for rate in (0.01, 0.05) for row in cell(0.14, rate, spread=0.05)]
    missing = about(told(clean, open_), "Not told: 2 of 2 settings with poison are undecided; ")
    assert int(re.search(r"; (\d+) seeds instead of 3 would decide about 2,", missing).group(1)) > 3  # type: ignore[union-attr]


def test_the_seeds_that_are_asked_for_decide() -> None:
    """Of many cells whose true excess is 4 points above what is allowed: with as many seeds as said, most decide."""
    rng = np.random.default_rng(0)

    def cells(seeds: int) -> DefendedRegionMap:
        rows = [row for number in range(60) for rate in (0.0, 0.1) for row in _drawn(rng, number, rate, seeds)]
        return DefendedRegionMap.from_frame(pd.DataFrame(rows))

    few = cells(3)
    undecided = [cell for cell in few.cells if cell.poisoned and cell.verdict.status == "uncertain"]
    asked = int(np.median([seeds_needed(cell, DecisionRule()) for cell in undecided]))
    assert 4 <= asked <= 30
    before, after = (
        np.mean([c.verdict.status == "backdoored" for c in m.cells if c.poisoned]) for m in (few, cells(asked))
    )
    assert after > before + 0.1
    assert after > 0.5


def test_seeds_needed_by_hand() -> None:
    """The excess is 0.10 over the limit and its interval reaches 0.15 down: 1.645 * 0.10 / 0.15 = 1.097 errors of
    three seeds; 1.282 decide: 3 * (1.282 / 1.097)^2 = 4.1 seeds. The far end of the interval counts for nothing."""
    excess = Estimate(0.2, 0.05, 0.9)
    verdict = Verdict(setting={}, status="uncertain", reason="", seeds=3, attack_success_excess=excess)
    assert seeds_needed(SimpleNamespace(verdict=verdict), DecisionRule()) == 5  # type: ignore[arg-type]


def _drawn(rng: np.random.Generator, number: int, rate: float, seeds: int) -> list[Row]:
    mean = 0.15 if rate else 0.01
    base: Row = {"attack.name": "badnets", "poison_rate": rate, "train.weight_decay": number, "clean_accuracy": 0.97}
    rates = rng.normal(mean, 0.05 if rate else 0.002, seeds).clip(0, 1)
    return [base | {"seed": seed, "attack_success": float(value)} for seed, value in enumerate(rates)]


def test_failed_trials_and_settings_without_a_result() -> None:
    failed = [row | {"status": "FAILED", "error": "out of memory"} for row in cell(0.5, 0.05)]
    missing = about(told(cell(0.01, 0.0) + cell(0.9, 0.01), failed), "Not told: ")
    assert "3 trials failed (the first: out of memory)" in missing
    assert "1 setting with poison has no finished trial" in missing


def test_many_attacks_are_counted() -> None:
    sentences = told(*(grid(name, (0.5 if name < "e" else 0.0, 0.9), 5e-4) for name in "abcdefg"))
    assert "of 4 further attacks 4 take hold somewhere" in about(sentences, "Where an attack takes hold")


# ---- information, smoothing and stealthiness


def logged(rate: float, seed: int, **metrics: float) -> Row:
    """A run as the tracking store gives it: BadNets, which takes hold where there is poison."""
    rates = {"accuracy/clean": 0.97 + seed / 1000, "attack_success": 0.9 if rate else 0.01}
    params = {"attack.name": "badnets", "poison_rate": rate, "seed": seed}
    row: Row = {"status": "FINISHED", "run_id": f"{rate}-{seed}", **{f"params.{n}": str(v) for n, v in params.items()}}
    return row | {f"metrics.{name.replace('__', '/')}": value for name, value in (rates | metrics).items()}


def signatures_of(runs: Sequence[Row]) -> list[str]:
    frame = pd.DataFrame(runs)
    from analysis.records import canonical_frame

    return findings(DefendedRegionMap.from_frame(canonical_frame(frame)), frame, judge_smoothing)


def test_information_beside_its_null() -> None:
    """The size of each seed is 0.25 -+ 0.01 above its null: Student's 90 % interval is 2.92 * 0.01 / sqrt(3) wide."""
    runs = [
        logged(0.1, s, **{"mi/signature": -0.30 + z, "mi/signature/null": 0.05}) for s, z in enumerate((-0.01, 0, 0.01))
    ]
    sentence = about(signatures_of([*runs, *(logged(0.0, s) for s in range(3))]), "Information (the signature)")
    assert "apart from its null at 1 of 1 setting where the backdoor takes hold (at most 0.1 by chance)" in sentence
    assert "-0.30 against a size of 0.05 nats (size above it 0.25, 0.23 to 0.27; badnets at 10%)" in sentence


@pytest.mark.parametrize(("mean", "apart"), [(0.0, 0), (-0.04, 0), (0.04, 0), (-0.06, 0), (-0.3, 1), (0.3, 1)])
def test_a_signature_is_apart_where_it_is_larger_than_its_null_on_either_side(mean: float, apart: int) -> None:
    """The null is a size: taking it off a signature of nothing would leave minus the null, sure over the seeds."""
    runs = [
        logged(0.1, s, **{"mi/signature": mean + z, "mi/signature/null": 0.06}) for s, z in enumerate((-0.01, 0, 0.01))
    ]
    sentence = about(signatures_of([*runs, *(logged(0.0, s) for s in range(3))]), "Information (the signature)")
    assert f"apart from its null at {apart} of 1 setting" in sentence


def test_stealthiness_that_is_its_null_is_not_apart() -> None:
    runs = [logged(0.1, s, **{"stealth/s1": 1.0 + z, "stealth/s1/null": 1.0}) for s, z in enumerate((-0.1, 0.02, 0.1))]
    sentence = about(signatures_of([*runs, *(logged(0.0, s) for s in range(3))]), "Stealthiness (S1)")
    assert "apart from its null at 0 of 1 setting" in sentence


def test_one_seed_tells_nothing_of_a_null() -> None:
    runs = [logged(0.1, 0, **{"mi/signature": -0.3, "mi/signature/null": 0.0}), logged(0.0, 0)]
    sentence = about(signatures_of(runs), "Information")
    assert "at 0 of 1 setting" in sentence
    assert "one seed tells nothing of how far seeds stray" in sentence


def test_information_at_its_ceiling_cannot_be_told() -> None:
    runs = [logged(0.1, s, **{"mi/signature": float("nan"), "mi/signature/saturated": 1.0}) for s in range(3)]
    assert about(signatures_of(runs), "Information (the signature) could not be told: at its ceiling at 1 setting")


def smoothed(seeds: int, gap: float, control: float = 0.0) -> list[Row]:
    shift = (-0.01, 0.0, 0.01, 0.005, -0.005)

    def gaps(z: float) -> dict[str, float]:
        values = {"triggered": gap + z, "twin_triggered": -0.1 + z, "random_patch": control + z}
        return {f"smoothness/gap/{name}/sigma_0.5": value for name, value in values.items()}

    return [logged(0.1, s, **gaps(shift[s])) for s in range(seeds)]


def test_smoothing_that_is_shown() -> None:
    sentence = about(signatures_of(smoothed(5, 0.3)), "Smoothing (sigma 0.5) is shown at 1 of 1 setting with poison;")
    assert "0.300 nats, 95% interval 0.290 to 0.310; -0.100 on clean twins" in sentence


def test_smoothing_that_is_not_shown_says_what_is_missing() -> None:
    sentence = about(signatures_of(smoothed(3, 0.3)), "Smoothing (sigma 0.5) is shown at 0 of 1 setting")
    assert "most often missing: 3 seed(s) of at least 5 (at 1 setting)" in sentence
    assert "not above the gap of random_patch" in about(signatures_of(smoothed(5, 0.3, control=0.3)), "Smoothing")
