"""What NAB, CBD, PDB, SAU and NPD do on digits: docs/defences.md's rows, at seed 0, and their known failures.

The bounds hold what was measured in three seeds (NAB by losses and SAU: one), with some room.
"""

import functools

import pytest

from raybd.attacks import ATTACKS
from raybd.data import load
from raybd.defences import DEFENCES
from raybd.plugins import parse
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial

pytestmark = pytest.mark.calibration


@functools.cache
def measured(defence: str, attack: str, rate: float = 0.09) -> tuple[float, float]:
    """Clean accuracy and attack success, in points, at seed 0."""
    config = TrialConfig(
        attack=parse("attack", ATTACKS, attack),
        poison_rate=rate,
        validation=0.06,
        defence=parse("defence", DEFENCES, defence),
        model=ModelConfig(width=0.5),
        train=TrainConfig(epochs=20),
        probes=(20,),
    )
    found = run_trial(config, load("digits")).metrics
    return 100 * found["accuracy/clean"], 100 * found["attack_success"]


def test_without_a_defence_all_three_attacks_take_hold() -> None:
    assert measured("none", "badnets")[1] > 95
    assert measured("none", "blended")[1] > 95
    assert measured("none", "label_consistent")[1] > 30


@pytest.mark.parametrize("attack", ["badnets", "blended", "label_consistent"])
def test_solved_pdb_on_all_three(attack: str) -> None:
    assert measured("pdb", attack)[1] <= 10


def test_known_failure_pdb_costs_more_than_ten_points_of_accuracy_on_eighty_clean_images() -> None:
    assert measured("none", "badnets", 0.0)[0] - measured("pdb", "badnets", 0.0)[0] > 10


def test_solved_cbd_on_badnets() -> None:
    """In two seeds of three: at seed 1 the first network had not learnt the patch after its only epoch."""
    assert measured("cbd", "badnets")[1] <= 20


def test_known_failure_the_first_network_of_cbd_finds_a_blend_harder_than_digits() -> None:
    assert measured("cbd", "blended")[1] > 90


def test_known_failure_what_is_held_at_gamma_is_not_the_poison_of_digits() -> None:
    assert measured("nab", "badnets")[1] > 90


def test_nab_weakens_a_blend_where_a_head_on_encoded_images_finds_it() -> None:
    """28 to 56 % in three seeds; at seed 0 80 % of what it suspects is poison, and 5 % of a patch."""
    assert 20 < measured('nab:detection="ln"', "blended")[1] < 70


def test_known_failure_a_patch_survives_sau_and_npd() -> None:
    assert measured("npd", "badnets")[1] > 80
    assert measured("sau", "badnets")[1] > 80
