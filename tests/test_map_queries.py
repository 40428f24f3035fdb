"""Boundary, resistance, best, compare and holes, each answer worked out here."""

import math

import pandas as pd
import pytest

from analysis import DefendedRegionMap
from analysis.boundary import measured_boundary
from analysis.defences import effectiveness
from raybd.errors import InputError

BASE = {"attack.name": "badnets", "poison_rate": 0.1, "clean_accuracy": 0.9, "attack_success": 0.02}
NAN = math.nan


def three(success=0.02, accuracy=0.9, seeds=3, **more):
    """Three seeds at one setting; dots in names are written as double underscores."""
    named = {name.replace("__", "."): value for name, value in more.items()}
    return [BASE | {"seed": s, "attack_success": success, "clean_accuracy": accuracy} | named for s in range(seeds)]


def region_map(*cells, **rule):
    return DefendedRegionMap.from_frame(pd.DataFrame([row for cell in cells for row in cell]), **rule)


def twins(**more):
    return three(0.0, poison_rate=0.0, **more)


def rates(width, *successes, **more):
    """Cells of one width at 0.01, 0.02, ...; None: a single seed."""
    rows = []
    for i, success in enumerate(successes, start=1):
        seeds = 1 if success is None else 3
        rows += three(success or 0.0, seeds=seeds, poison_rate=i / 100, model__width=width, **more)
    return rows


@pytest.mark.parametrize(
    ("statuses", "value", "low", "high", "holes"),
    [
        ("ddu", 2, 2, 3, ()),
        ("ddd", 3, 3, math.inf, ()),
        ("uuu", NAN, NAN, 1, ()),
        ("dud", 3, 1, math.inf, (2,)),
        ("?du", 2, NAN, 3, (1,)),
        ("d?u", 1, 1, 3, ()),
        ("d?uu", 1, 1, 3, ()),
        ("du?", 1, 1, math.inf, ()),
        ("dudu", 3, 1, 4, (2,)),
        ("dku", 1, 1, 2, ()),
        ("dukdk", 4, 1, 5, (2, 3)),
    ],
)
def test_an_edge_among_measured_values(statuses, value, low, high, holes):
    words = {"d": "defended", "u": "backdoored", "k": "kept_out", "?": "uncertain"}
    edge = measured_boundary([i + 1.0 for i in range(len(statuses))], [words[s] for s in statuses])
    assert (edge.value, edge.low, edge.high) == pytest.approx((value, low, high), nan_ok=True)
    assert edge.holes == holes


def test_the_boundary_of_each_setting_with_its_holes():
    found = region_map(twins(model__width=1), rates(1, 0.0, 0.9, 0.0, 0.9), rates(2, 0.0, None, 0.9))
    table = found.boundary(attack="badnets")
    assert table.drop(columns="reason").to_dict("list") == {
        "width": [1, 2],
        "largest defended": [0.03, 0.01],
        "low": [0.01, 0.01],
        "high": [0.04, 0.03],
        "holes": ["0.02", ""],
    }
    assert table["reason"].tolist() == [
        "defended up to 0.03, with holes at 0.02, undefended from 0.04",
        "defended up to 0.01, undefended from 0.03",
    ]
    assert found.boundary(along="width", poison_rate=0.03)["largest defended"].tolist() == [1]
    with pytest.raises(InputError, match="unknown axis: depth"):
        found.boundary(along="depth")
    with pytest.raises(InputError, match="needs a numeric axis"):
        region_map(twins(), three(attack__name="blend")).boundary(along="attack")


def test_resistance_is_the_largest_rate_with_a_defended_setting():
    found = region_map(
        twins(model__width=1),
        rates(1, 0.9, 0.9, 0.9),
        rates(2, 0.0, 0.0, 0.9),
        rates(3, 0.9, 0.9, 0.9),
        rates(1, 0.9, attack__name="blend"),
    )
    asked = found.resistance("badnets")
    assert (asked.rate, asked.boundary.low, asked.boundary.high) == (0.02, 0.02, 0.03)
    assert asked.settings == [{"width": 2}]
    assert str(asked) == "badnets: defended up to 0.02, undefended from 0.03\n  at width=2"
    blend = found.resistance("blend")
    assert math.isnan(blend.rate)
    assert blend.boundary.reason == "no value from 0.01 to 0.01 is defended"
    assert "attack=wanet was not measured" in found.resistance("wanet").boundary.reason


def test_resistance_of_one_network():
    cells = [rates(1, 0.0, 0.0, model__name="cnn"), rates(1, 0.0, 0.9, model__name="vit")]
    found = region_map(twins(model__name="cnn", model__width=1), *cells)
    assert found.resistance("badnets", "cnn").rate == 0.02
    assert found.resistance("badnets", model="vit").rate == 0.01


def test_the_best_settings_stand_first():
    found = region_map(
        twins(model__width=1),
        rates(1, 0.0, 0.9),  # pooled: uncertain
        rates(2, 0.9, 0.9),
        rates(3, 0.0, 0.0),
        [row | {"clean_accuracy": 0.91} for row in rates(4, 0.0, 0.0)],
    )
    table = found.best(attack="badnets")
    assert table[["width", "status", "cells"]].to_numpy().tolist() == [
        [4, "defended", 2],
        [3, "defended", 2],
        [1, "uncertain", 2],
        [2, "backdoored", 2],
    ]
    assert found.best(poison_rate=0.01)["width"].tolist() == [4, 1, 3, 2]


def defended(name, successes, accuracies, rate=0.1, **more):
    pairs = enumerate(zip(successes, accuracies, strict=True))
    place = {"poison_rate": rate, "defence.name": name} | more
    return [BASE | place | {"seed": s, "attack_success": a, "clean_accuracy": c} for s, (a, c) in pairs]


def test_two_defences_are_paired_by_cell_and_seed():
    found = region_map(
        twins(defence__name="none"),
        defended("none", [0.9, 0.8, 0.7], [0.9, 0.9, 0.9]),
        defended("vibe", [0.1, 0.1, 0.0], [0.88, 0.9, 0.92]),
        defended("none", [0.5, 0.6], [0.9, 0.9], rate=0.2),
        defended("vibe", [0.6, 0.6, 0.0], [0.9, 0.9, 0.0], rate=0.2),  # the third seed has no partner
        defended("vibe", [0.5], [0.9], rate=0.3),  # nor has this cell
    )
    asked = found.compare("vibe", "none")
    first, second = asked.cells.to_dict("records")
    assert (first["poison_rate"], first["seeds"], second["seeds"]) == (0.1, 3, 2)
    assert first["attack_success"] == pytest.approx(-(0.8 + 0.7 + 0.7) / 3)
    t, s = 2.919985580353726, math.sqrt(((0.8 - 11 / 15) ** 2 + 2 * (0.7 - 11 / 15) ** 2) / 2)  # t(0.95, 2)
    assert first["attack_success_high"] == pytest.approx(-11 / 15 + t * s / math.sqrt(3))
    assert first["clean_accuracy"] == pytest.approx(0.0)
    # DER: (0.8 - 0.02 + 1) / 2, (0.7 + 1) / 2, (0.7 + 1) / 2; at 0.2: success rose by 0.1 and by 0: 0.5 each
    assert first["effectiveness"] == pytest.approx((0.89 + 0.85 + 0.85) / 3)
    assert asked.effectiveness == pytest.approx((0.89 + 0.85 + 0.85 + 0.5 + 0.5) / 5)
    # means over cells: seed 0 (-0.8 + 0.1) / 2, seed 1 (-0.7 + 0) / 2, seed 2 -0.7
    assert asked.attack_success.value == pytest.approx((-0.35 - 0.35 - 0.7) / 3)
    assert (asked.won, asked.lost) == (1, 0)  # at 0.1 three seeds are defended against none; at 0.2 none of either
    assert str(asked).startswith("vibe against none: 2 cells, 1 won, 0 lost, 1 tied\n  attack success  -46.7 points")
    turned = found.compare("none", "vibe")
    assert turned.attack_success.value == pytest.approx(-asked.attack_success.value)
    assert (turned.won, turned.lost) == (0, 1)


def test_settings_of_a_defence_must_be_told_apart():
    found = region_map(
        twins(defence__name="none"),
        defended("none", [0.9] * 3, [0.9] * 3),
        defended("vibe", [0.1] * 3, [0.9] * 3, **{"defence.kappa": 1}),
        defended("vibe", [0.2] * 3, [0.9] * 3, **{"defence.kappa": 2}),
    )
    assert set(found.axes) == {"poison_rate", "defence", "kappa"}
    with pytest.raises(InputError, match="vibe was measured at several of kappa, defence: say which"):
        found.compare("vibe", "none")
    two = found.compare({"defence": "vibe", "kappa": 2}, "none")
    assert two.attack_success.value == pytest.approx(-0.7)
    assert found.compare({"kappa": 2}, {"kappa": 1}).attack_success.value == pytest.approx(0.1)
    with pytest.raises(InputError, match="nothing was measured there: defence=wanet was not measured"):
        found.compare("wanet", "none")


def test_effectiveness_at_its_ends():
    fall_of_success = pd.Series([1.0, 0.0, -1.0, 1.0])
    fall_of_accuracy = pd.Series([0.0, 0.0, 1.0, -0.1])
    # the third: accuracy gone; success that rose counts as no fall. The fourth: nor does accuracy that rose
    assert effectiveness(fall_of_success, fall_of_accuracy).tolist() == [1.0, 0.5, 0.0, 1.0]


def test_a_hole_inside_the_region_is_not_interpolated_over():
    def plane(at_hole, **rule):
        cells = [twins(model__width=1.0)]
        for i, width in enumerate((1.0, 2.0, 3.0, 4.0)):
            for j, rate in enumerate((0.01, 0.02, 0.04, 0.08)):
                hole = at_hole if (i, j) == (1, 1) else {}
                rows = [BASE | {"seed": s, "attack_success": v} for s, v in enumerate((0.002, 0.006, 0.02))]
                cells.append([r | {"poison_rate": rate, "model.width": width} | hole for r in rows])
        return region_map(*cells, **rule)

    beside = {"poison_rate": 0.03, "width": 2.5}  # of the box that has the hole at a corner
    assert plane({}).query(interpolate=True, **beside).status == "defended"
    failed = {"attack_success": NAN, "clean_accuracy": NAN, "status": "FAILED", "error": "out of memory"}
    gap = plane(failed).query(interpolate=True, **beside)
    assert gap.status == "uncertain"
    assert "the unmeasured cell beside it, at badnets, 0.02, 2" in gap.reason
    assert [text.partition(": ")[2] for text in gap.failures] == ["out of memory"] * 3
    bad = plane({"attack_success": 0.17}, min_probability=0.7).query(interpolate=True, **beside)
    assert bad.status == "uncertain"
    assert "the surface passes over the backdoored cell beside it, at badnets, 0.02, 2" in bad.reason


def test_failures_are_listed():
    rows = three(NAN, NAN, status="FAILED", error="boom")
    found = region_map(twins(), [row | {"run_id": f"r{i}"} for i, row in enumerate(rows)])
    asked = found.query(poison_rate=0.1)
    assert asked.failures == ("r0: boom", "r1: boom", "r2: boom")
    assert "  failed          r1: boom" in str(asked)
    assert found.query().failures == asked.failures


@pytest.mark.parametrize(
    "ask",
    [
        lambda found, at: found.slice("poison_rate", "defence", **at),
        lambda found, at: found.boundary(**at),
        lambda found, at: found.best(**at),
        lambda found, at: found.most_robust(**at),
        lambda found, at: found.compare("vibe", "none", **at),
    ],
    ids=["slice", "boundary", "best", "most_robust", "compare"],
)
def test_a_table_of_what_was_not_measured_is_refused_with_what_was(ask):
    found = region_map(
        twins(defence__name="none"), defended("none", [0.9] * 3, [0.9] * 3), defended("vibe", [0.1] * 3, [0.9] * 3)
    )
    with pytest.raises(InputError, match=r"nothing was measured there: attack=badnet was not .*did you mean badnets\?"):
        ask(found, {"attack": "badnet"})
