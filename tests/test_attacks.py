"""The contract over the whole table, and what is refused before any work."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raybd.attacks import ATTACKS, Attack, BadNets, Blended, Multi, NoAttack, describe, parse
from raybd.attacks.adaptive_blend import AdaptiveBlend
from raybd.attacks.adaptive_k_way import AdaptiveKWay
from raybd.attacks.adaptive_patch import AdaptivePatch
from raybd.attacks.advdoor import AdvDoor
from raybd.attacks.base import Shape
from raybd.attacks.batt import Batt
from raybd.attacks.bpp import Bpp
from raybd.attacks.input_aware import InputAware
from raybd.attacks.invisible_grid import InvisibleGrid
from raybd.attacks.label_consistent import LabelConsistent
from raybd.attacks.low_frequency import LowFrequency
from raybd.attacks.narcissus import Narcissus
from raybd.attacks.poisoning import PoisonSpec
from raybd.attacks.primitive import Primitive
from raybd.attacks.sig import Sig
from raybd.attacks.ssba import Ssba
from raybd.attacks.tact import TaCT
from raybd.attacks.universal import Universal
from raybd.attacks.wanet import WaNet
from raybd.contracts.attacks import SHAPES, check_attack
from raybd.errors import InputError
from tests.conftest import made_images, steep_network

NETWORKS = (InputAware,)  # whose trigger is one
POISONING = sorted(name for name, attack in ATTACKS.items() if attack is not NoAttack)


def written() -> list[str]:
    """Every attack of the table and every preset, without those that say what another has said."""
    texts = [text for name in POISONING for text in (name, *(f"{name}:{preset}" for preset in ATTACKS[name].presets))]
    return list({parse(text): text for text in reversed(texts)}.values())[::-1]


def cases() -> list[Any]:
    """Every attack on every shape; networks of triggers take their time on the larger ones."""
    slow = [text for text in written() if isinstance(parse(text), NETWORKS)]
    return [
        pytest.param(
            text, shape, marks=[pytest.mark.calibration] * (text in slow and shape[0] == 3), id=f"{text}-{shape}"
        )
        for text in written()
        for shape in SHAPES
    ]


@pytest.mark.parametrize(("text", "shape"), cases())
def test_contract(text: str, shape: Shape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attack = parse(text)
    if isinstance(attack, LabelConsistent):  # how well its surrogate learnt is no part of the contract
        monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
        attack = replace(attack, steps=2)
    if isinstance(attack, Narcissus):  # nor how good its picture is
        monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
        attack = replace(attack, steps=12, step=50.0)
    if isinstance(attack, AdvDoor):  # v is 0 where no path to the target ends: a steep surrogate, and a cache for it
        monkeypatch.setenv("RAYBD_CACHE", str(tmp_path))
        monkeypatch.setattr("raybd.attacks.advdoor.surrogate", steep_network)
        attack = replace(attack, images=20, passes=1)
    if isinstance(attack, Ssba):  # nor what its encoder has learnt
        attack = replace(attack, steps=3, width=4)
    if isinstance(attack, NETWORKS):
        monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))
        monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 1)
    check_attack(attack, (shape,))


def test_the_table_holds_what_the_issue_lists() -> None:
    wanted = """adaptive_blend adaptive_k_way adaptive_patch advdoor badnets batt blended bpp ctrl ftrojan input_aware
        invisible_grid label_consistent low_frequency many_triggers multi narcissus placed primitive sig ssba tact
        universal view_invariant wanet"""
    assert set(wanted.split()) <= set(POISONING)


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (28, 3), (32, 3), (64, 6), (224, 21)])
def test_a_patch_grows_with_the_image(side: int, patch: int) -> None:
    assert BadNets().side((3, side, side)) == patch


# --- from text and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("badnets", BadNets()),
        ("badnets:vibe", BadNets(pattern="vibe", position=(4, 4), size=2)),
        ("badnets:vibe,size=4", BadNets(pattern="vibe", position=(4, 4), size=4)),
        ("badnets:position=[1,2],colour=[9,8,7],size=2", BadNets(position=(1, 2), colour=(9, 8, 7), size=2)),
        ("badnets:position=top_left,target=3", BadNets(position="top_left", target=3)),
        ("blended:alpha=1", Blended(alpha=1.0)),
        ("wanet:backdoorbench", WaNet(each_epoch=True, rounding="down")),
        ('multi:attacks=["sig:delta=20","ctrl"],shares=[1,2]', Multi(attacks=("sig:delta=20", "ctrl"), shares=(1, 2))),
    ],
)
def test_parse(text: str, attack: Attack) -> None:
    assert parse(text) == attack
    assert parse(describe(attack), target=attack.target) == attack


@pytest.mark.parametrize(
    "attack",
    [
        Multi(attacks=("blended", "badnets:position=[4,4]")),
        Multi(attacks=("badnets:position=[4,4],size=2", "badnets:colour=[1,2,3]"), shares=(1.0, 2.0)),
        Blended(image="pictures/my own.png"),
        Blended(image="pictures/one,two.png"),
        Blended(image="[x=1].png"),
    ],
    ids=describe,
)
def test_describe_and_parse_are_inverse_whatever_the_settings_hold(attack: Attack) -> None:
    assert parse(describe(attack)) == attack


def test_common_settings_hold_where_the_text_says_nothing_else() -> None:
    assert parse("blended", target=2, victims="all") == Blended(target=2, victims="all")
    assert parse("blended:target=1", target=2).target == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("badnetz", r"unknown attack: badnetz \(known: adaptive_blend, .*wanet; did you mean badnets\?\)"),
        ("badnets:vibes", r"unknown preset of badnets: vibes \(known: .*vibe; did you mean vibe\?\)"),
        (
            "sig:alpha=1",
            r"unknown setting of attack sig: alpha \(known: delta, .*rounding, target, victims\)",
        ),
        ("blended:alpha=abc", "attack blended: alpha cannot be 'abc'"),
        ("blended:alpha=true", "attack blended: alpha cannot be True"),
        ("blended:grey=1", "attack blended: grey cannot be 1"),
        ("badnets:target=1.5", "attack badnets: target cannot be 1.5"),
        ("badnets:position=[1,2,3]", r"attack badnets: position cannot be \(1, 2, 3\)"),
        ("badnets:colour=[red]", "attack badnets: colour cannot be"),
        ("sig:delta=NaN", "attack sig: delta cannot be nan"),
        ("wanet:covers=Infinity", "attack wanet: covers cannot be inf"),
    ],
)
def test_parse_refuses(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(text)


def test_parse_names_all_settings_of_the_wrong_type_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse("blended:alpha=abc,grey=maybe,target=1.5")
    assert caught.value.problems == [
        "attack blended: alpha cannot be 'abc' (allowed: a number)",
        "attack blended: grey cannot be 'maybe' (allowed: true or false)",
        "attack blended: target cannot be 1.5 (allowed: a whole number or a word)",
    ]


# --- settings that make no sense ------------------------------------------------------------------------------------


def _refusals() -> list[tuple[Attack, str]]:
    shared = [
        (BadNets(target=10), "target 10 is no class (allowed: 0 to 9)"),
        (BadNets(target=-1), "target -1 is no class (allowed: 0 to 9)"),
        (BadNets(labels="some"), "labels must be one of all_to_one, all_to_all, got 'some'"),  # type: ignore[arg-type]
        (BadNets(victims="some"), "victims must be one of non_target, all, got 'some'"),  # type: ignore[arg-type]
        (WaNet(covers=-1), "covers must be at least 0 and finite, got -1"),
        (Sig(labels="all_to_all"), "a clean-label attack leaves labels alone: labels must be all_to_one"),
    ]
    patches = [
        (BadNets(size=9), "a patch of 9 pixels does not fit images of 8x8 (allowed: 1 to 8)"),
        (BadNets(size=0), "a patch of 0 pixels does not fit"),
        (BadNets(size=3, position=(6, 0)), "a patch of 3 pixels at 6, 0 leaves images of 8x8"),
        (BadNets(size=3, position=(0, -1)), "a patch of 3 pixels at 0, -1 leaves images of 8x8"),
        (
            BadNets(position="middle"),
            "position must be one of top_left, top_right, ",
        ),  # type: ignore[arg-type]
        (BadNets(pattern="stripes"), "pattern must be one of solid, toolbox, "),  # type: ignore[arg-type]
        (BadNets(colour=(1, 2)), "colour (1, 2) must be 1 or 1 values from 0 to 255 for 1 channel(s)"),
        (BadNets(colour=(256,)), "colour (256,) must be"),
        (BadNets(colour=(-1,)), "colour (-1,) must be"),
        (AdaptivePatch(alphas=(1, 1, 1)), "alphas must be four, got (1.0, 1.0, 1.0)"),
        (
            AdaptivePatch(alphas=(1, 1, 1, 0)),
            "alphas must be in (0, 1], got 0",
        ),
        (AdaptivePatch(at_test=()), "at_test must name at least one patch"),
        (AdaptivePatch(at_test=(4,)), "at_test must be in [0, 4), got 4"),
        (TaCT(source_classes=(0,)), "target 0 must differ"),
        (TaCT(source_classes=()), "there must be a source"),
        (TaCT(cover_classes=(1,)), "must differ"),
        (TaCT(source_classes=(10,)), "10 are no classes (allowed: 0 to 9)"),
        (TaCT(labels="all_to_all"), "labels must be all_to_one"),
        (Universal(bits=7), "7 bits hardly tell 10 classes apart (allowed: 8 and more)"),
        (Universal(bits=45), "45 bits do not fit images of 8x8"),
        (Universal(mode="stripe"), "mode must be one of patch, blend, got 'stripe'"),  # type: ignore[arg-type]
        (Universal(alpha=0), "alpha must be in (0, 1], got 0"),
        (Universal(labels="all_to_all"), "labels must be all_to_one"),
    ]
    amounts = [
        (Blended(alpha=0), "alpha must be in (0, 1], got 0"),
        (Blended(alpha=1.5), "alpha must be in (0, 1], got 1.5"),
        (Blended(image="/no/such.png"), "there is no picture at /no/such.png"),
        (AdaptiveBlend(alpha=0), "alpha must be in (0, 1], got 0"),
        (AdaptiveBlend(alpha_test=2), "alpha_test must be in (0, 1], got 2"),
        (AdaptiveBlend(grid=1), "grid must be at least 2, got 1"),
        (AdaptiveBlend(grid=9), "grid must be at most 8, got 9"),
        (InvisibleGrid(strength=0), "strength must be in [1, 255], got 0"),
        (InvisibleGrid(strength=256), "strength must be in [1, 255], got 256"),
        (LowFrequency(strength=0), "strength must be in (0, 255], got 0"),
        (LowFrequency(waves=1), "waves must be at least 2, got 1"),
        (LowFrequency(waves=9), "waves must be at most 8, got 9"),
        (Primitive(share=0), "share must be in (0, 1], got 0"),
        (Primitive(share=1.1), "share must be in (0, 1], got 1.1"),
        (Bpp(levels=1), "levels must be in [2, 255], got 1"),
        (Bpp(levels=256), "levels must be in [2, 255], got 256"),
        (Sig(frequency=0), "0 waves across 8 pixels are zero at each of them"),
        (Sig(frequency=4), "4 waves across 8 pixels are zero at each of them"),
        (WaNet(k=1), "k must be at least 2, got 1"),
        (Batt(degrees=0), "0 degrees is no turn (allowed: up to 180 either way)"),
        (Batt(degrees=181), "181 degrees is no turn"),
        (Batt(tolerance=16), "tolerance must be below the 16 degrees, got 16"),
        (LabelConsistent(epsilon=0), "epsilon must be above 0 and finite, got 0"),
        (LabelConsistent(steps=0), "steps must be at least 1, got 0"),
        (LabelConsistent(step=-1), "step must be above 0 and finite, got -1"),
        (LabelConsistent(amplitude=0), "amplitude must be above 0 and finite, got 0"),
        (InputAware(training="later"), "training must be one of joint, beforehand, got 'later'"),  # type: ignore[arg-type]
        (InputAware(density=2), "density must be in [0, 1], got 2"),
        (InputAware(rate=0), "rate must be above 0 and finite, got 0"),
        (AdvDoor(epsilon=0.5), "epsilon must be at least 1 grey level, got 0.5"),
        (AdvDoor(labels="all_to_all"), "v is searched for one target: labels must be all_to_one"),
        (AdvDoor(success=0), "success must be in (0, 1], got 0"),
        (AdvDoor(images=0), "images must be at least 1, got 0"),
        (Ssba(bits=1), "bits must be at least 2, got 1"),
        (Ssba(weight=-1), "weight must be at least 0 and finite, got -1"),
        (Narcissus(epsilon=0.5), "epsilon must be at least 1 grey level, got 0.5"),
        (Narcissus(magnify=0), "magnify must be above 0 and finite, got 0"),
        (Narcissus(steps=0), "steps must be at least 1, got 0"),
        (LabelConsistent(norm="l1"), "norm must be one of linf, l2, got 'l1'"),  # type: ignore[arg-type]
    ]
    several = [
        (Multi(attacks=("badnets",)), "must be two or more different ones"),
        (Multi(attacks=("badnets", "badnets")), "must be two or more different ones"),
        (Multi(shares=(1, 2)), "2 shares for 3 attacks"),
        (Multi(targets=(1, 2)), "2 targets for 3 attacks"),
        (Multi(shares=(1, 2, 0)), "shares must be above 0 and finite, got 0"),
        (Multi(targets=(1, 2, 11)), "target 11 is no class (allowed: 0 to 9)"),
        (Multi(targets=(0, 1, 10)), "target 10 is no class"),
        (Multi(attacks=("badnetz", "sig")), "unknown attack: badnetz (known: "),
        (Multi(attacks=("blended:alpha=0", "sig")), "Multi: Blended: alpha must be in (0, 1], got 0"),
        (Multi(attacks=("multi", "sig")), "multi"),
        (Multi(attacks=("none", "sig")), "none"),
        (Multi(attacks=("wanet:backdoorbench", "sig")), "epoch"),
    ]
    return shared + patches + amounts + several


@pytest.mark.parametrize(("attack", "says"), _refusals())
def test_settings_that_make_no_sense(attack: Attack, says: str) -> None:
    assert says in "\n".join(attack.check((1, 8, 8), 10))


@pytest.mark.parametrize(
    ("attack", "shape", "says"),
    [
        (AdaptiveKWay(), (1, 7, 8), "images of 7x8 are too small (allowed: 8x8 and more)"),
        (AdaptiveKWay(), (2, 8, 8), "1 or 3 channels, not 2"),
        (Ssba(), (1, 7, 8), "images of 7x8 are too small (allowed: 8x8 and more)"),
        (InputAware(), (1, 7, 8), "images of 7x8 are too small (allowed: 8x8 and more)"),
        (LabelConsistent(), (1, 8, 3), "no room for four corners on 8x3"),
        (BadNets(colour=(1, 2, 3)), (2, 8, 8), "colour (1, 2, 3) must be 1 or 2 values"),
        (Universal(), (1, 5, 8), "30 bits do not fit images of 5x8"),
        (Sig(), (1, 8, 12), "6 waves across 12 pixels are zero at each of them"),
    ],
)
def test_images_that_make_no_sense(attack: Attack, shape: Shape, says: str) -> None:
    assert says in "\n".join(attack.check(shape, 10))


def test_all_problems_at_once() -> None:
    attack = BadNets(target=9, labels="some", victims="others", size=99, colour=(300,), pattern="dots")  # type: ignore[arg-type]
    found = "\n".join(attack.check((1, 8, 8), 4))
    for said in ("target 9", "labels must", "victims must", "99 pixels", "colour (300,)", "pattern must"):
        assert said in found
    both = Multi(attacks=("blended:alpha=0", "sig:frequency=4"), targets=(0, 99)).check((1, 8, 8), 4)
    assert [re.split(r"[ :]+", problem)[1] for problem in both] == ["Blended", "Sig", "Sig"]


def test_the_largest_patch_that_is_allowed_covers_the_image() -> None:
    assert BadNets(size=8).check((1, 8, 8), 4) == []
    assert (PoisonSpec(BadNets(size=8), 0.1, 0).triggered(made_images(4), 4).x == 255).all()
