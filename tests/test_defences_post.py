"""Repairs after training on digits: what each must solve, what it must not harm, where it fails, and how it is refused.

The thresholds were fixed before the first run: an attack is solved where its mean success over three seeds falls to
20 % or less at a loss of at most 5 points of accuracy; without poison, 2 points may be lost. What a method does not
reach is a test of its own, named a known failure, and holds what was measured.
"""

import copy
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raybd.attacks import ATTACKS
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import load
from raybd.data.split import split_validation
from raybd.defences import DEFENCES, Defence, TrainingContext
from raybd.defences.post import PostTraining, drawn
from raybd.errors import InputError
from raybd.models import build_model
from raybd.seeds import derive
from raybd.training import TrainConfig, fit, predict
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import check_trial, problems
from raybd.types import Data

HOW = TrainConfig(epochs=6)
SEEDS = (0, 1, 2)
NAMES = ("anp", "clp", "fine_pruning", "fine_tuning", "ft_sam", "ibau", "nad", "neural_cleanse", "npd", "sau")
QUICK: dict[str, dict[str, int]] = {name: {"steps": 3} for name in NAMES} | {
    "clp": {},
    "ibau": {"rounds": 2, "ascents": 1},
    "nad": {"steps": 3, "teacher_steps": 3},
    "neural_cleanse": {"steps": 3, "inversion_steps": 60},
    "npd": {"steps": 3, "warm_steps": 1},
}


@functools.cache
def world(attack: str, seed: int) -> tuple[TrainingContext, PoisonSpec]:
    """A scene whose network is trained as a trial without defence trains it."""
    data = load("digits")
    train, validation = split_validation(data.train, 0.1, seed)
    recipe = PoisonSpec(ATTACKS[attack](), 0.0 if attack == "none" else 0.09, seed)
    torch.manual_seed(derive(seed, "initialisation"))
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, width=0.5)
    images = recipe.poison(train, 10).images
    list(fit(model, images, HOW, seed))
    return TrainingContext(
        model=model, images=images, classes=10, train_config=HOW, seed=seed, trusted=validation
    ), recipe


def scores(model: nn.Module, recipe: PoisonSpec) -> tuple[float, float]:
    """Clean accuracy and attack success, in points; success is 0 where nothing is counted."""
    test = load("digits").test
    triggered, measured = recipe.triggered(test, 10), recipe.measured(test.y)
    right, fooled = (predict(model, images.x, HOW).argmax(1) == images.y for images in (test, triggered))
    among = fooled[measured].float()
    return 100 * float(right.float().mean()), 100 * float(among.mean()) if len(among) else 0.0


@functools.cache
def repaired(name: str, attack: str, seed: int) -> tuple[float, float]:
    at, recipe = world(attack, seed)
    defence = DEFENCES[name]()
    at = replace(at, model=defence.network(copy.deepcopy(at.model)))
    assert isinstance(defence, PostTraining)
    defence.timed(at)
    return scores(at.model, recipe)


def before(attack: str, seeds: tuple[int, ...] = SEEDS) -> np.ndarray:
    return np.mean([scores(world(attack, seed)[0].model, world(attack, seed)[1]) for seed in seeds], axis=0)


def after(name: str, attack: str, seeds: tuple[int, ...] = SEEDS) -> np.ndarray:
    return np.mean([repaired(name, attack, seed) for seed in seeds], axis=0)


def test_without_a_repair_the_attacks_succeed() -> None:
    assert before("badnets")[1] > 95
    assert before("blended")[1] > 95
    assert before("wanet")[1] > 25


def test_solved_ft_sam_on_badnets() -> None:
    assert after("ft_sam", "badnets")[1] <= 20


def test_solved_neural_cleanse_on_a_patch_and_on_a_blend() -> None:
    """BadNets 4 to 11 % in three seeds, Blended 1 and 8 % in two; a point or two of accuracy."""
    for attack in ("badnets", "blended"):
        accuracy, success = after("neural_cleanse", attack, (0,))
        assert success <= 20
        assert accuracy >= before(attack, (0,))[0] - 5


def test_neural_cleanse_leaves_a_network_without_an_outlier_as_it_is() -> None:
    assert after("neural_cleanse", "none", (0,)).tolist() == before("none", (0,)).tolist()


def test_solved_fine_tuning_on_wanet() -> None:
    assert after("fine_tuning", "wanet")[1] <= before("wanet")[1] / 2
    assert after("fine_tuning", "wanet")[0] >= before("wanet")[0] - 5


@pytest.mark.parametrize("name", ["anp", "clp", "fine_tuning", "fine_pruning"])
def test_without_poison_little_is_lost(name: str) -> None:
    assert after(name, "none", (0,))[0] >= before("none", (0,))[0] - 2


@pytest.mark.parametrize("name", ["ft_sam", "ibau", "nad"])
def test_known_failure_sixty_images_cost_more_than_two_points_without_poison(name: str) -> None:
    lost = before("none", (0,))[0] - after(name, "none", (0,))[0]
    assert 2 < lost < 15


@pytest.mark.parametrize("name", ["anp", "clp", "fine_tuning", "fine_pruning"])
def test_known_failure_a_patch_survives(name: str) -> None:
    assert after(name, "badnets", (0,))[1] > 90


@pytest.mark.parametrize(("name", "attack"), [("nad", "badnets"), ("ibau", "blended")])
def test_known_failure_of_sixty_images_the_attack_is_weakened_and_stays(name: str, attack: str) -> None:
    assert 20 < after(name, attack, (0,))[1] < 60


def quick(name: str) -> Defence:
    return DEFENCES[name](**QUICK[name])


def trial(name: str, **changes: object) -> TrialConfig:
    made = TrialConfig(
        poison_rate=0.1,
        validation=0.1,
        model=ModelConfig(width=0.25),
        train=TrainConfig(epochs=2),
        probes=(1,),
        defence=quick(name),
    )
    return replace(made, **changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_repair_comes_before_the_last_epoch_is_measured(digits: Data, name: str) -> None:
    reports = []
    result = run_trial(trial(name), digits, reports.append)
    plain = run_trial(trial(name, defence=DEFENCES["none"]()), digits)
    assert [report.epoch for report in reports] == [1, 2]
    assert "defence/seconds" not in reports[0].metrics
    found = reports[1].metrics
    assert found["defence/extra_images"] == (0 if name == "clp" else pytest.approx(0.05 * 1297, abs=6))
    assert found["defence/seconds"] >= 0
    assert (found["defence/passes"] > 0) == (name != "clp")
    outputs = [predict(trained.model, digits.test.x, HOW) for trained in (result, plain)]
    # 3 steps prune nothing, nor does CLP from 16 channels; without a flagged class nothing is unlearnt
    assert torch.equal(*outputs) != bool(found.get("defence/flagged_classes", name not in ("clp", "anp")))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits_and_global_draws_go_on(name: str) -> None:
    at, _ = world("badnets", 0)
    found, state = [], torch.get_rng_state()
    for _ in range(2):
        defence = quick(name)
        assert isinstance(defence, PostTraining)
        model = defence.network(copy.deepcopy(at.model))
        defence.timed(replace(at, model=model))
        found.append(model.state_dict())
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_clean_images_are_the_budget_by_class_and_never_more() -> None:
    at, _ = world("none", 0)
    clean = drawn(at, 0.05)
    assert torch.bincount(clean.y, minlength=10).tolist() == [6] * 10
    assert torch.equal(clean.x, drawn(at, 0.05).x)
    assert at.trusted is not None
    assert len(drawn(at, 0.5)) == len(at.trusted)
    with pytest.raises(ValueError, match="must be given some"):
        drawn(replace(at, trusted=None), 0.05)


def test_what_is_counted_is_what_went_through() -> None:
    at, _ = world("none", 0)
    at = replace(at, model=copy.deepcopy(at.model))
    # the teacher looks without gradients: a third
    numbers = DEFENCES["nad"](teacher_steps=2, steps=3).timed(at)  # type: ignore[attr-defined]
    assert numbers["defence/passes"] * len(at.images) == pytest.approx((2 + 3 + 3 / 3) * 60)
    assert not at.model._forward_pre_hooks


def test_too_few_clean_images_are_refused_before_training(digits: Data) -> None:
    for name in NAMES:
        wanted = 0 if name == "clp" else 1
        for validation in (0.0, 0.04):
            found = [p for p in problems(trial(name, validation=validation)) if "clean images" in p]
            assert len(found) == wanted
        assert problems(trial(name, validation=0.05)) == []
    with pytest.raises(InputError, match=r"defence nad needs clean images: validation must be at least 0\.05"):
        check_trial(trial("nad", validation=0.0), digits)


POSITIVE = {
    "anp": ("steps", "learning_rate", "epsilon"),
    "clp": ("u",),
    "fine_pruning": ("steps", "learning_rate"),
    "fine_tuning": ("steps", "learning_rate"),
    "ft_sam": ("steps", "learning_rate", "rho"),
    "ibau": ("rounds", "ascents", "radius", "fixed_points", "fixed_rate", "learning_rate"),
    "nad": ("teacher_steps", "steps", "learning_rate"),
    "neural_cleanse": ("inversion_steps", "threshold", "steps", "learning_rate"),
    "npd": ("warm_steps", "steps", "learning_rate", "radius", "ascents", "ascent_rate"),
    "sau": ("steps", "learning_rate", "bound", "ascents", "ascent_rate"),
}


def test_senseless_settings_are_refused(digits: Data) -> None:
    for name in NAMES:
        assert DEFENCES[name]().check((1, 8, 8), 10) == []
    for name, fields in POSITIVE.items():
        for field in fields:
            assert len(DEFENCES[name](**{field: 0}).check((1, 8, 8), 10)) == 1
            assert len(DEFENCES[name](**{field: math.nan}).check((1, 8, 8), 10)) == 1
    assert len(DEFENCES["nad"](betas=()).check((1, 8, 8), 10)) == 1
    assert len(DEFENCES["anp"](alpha=1.5, budget=0.0).check((1, 8, 8), 10)) == 2


def test_a_network_without_the_layers_is_refused_before_training(digits: Data) -> None:
    with pytest.raises(InputError, match="needs a network with a sequence of blocks"):
        run_trial(trial("nad", model=ModelConfig(name="torchvision:resnet18")), digits)


def test_a_resumed_training_is_repaired_alike(digits: Data, tmp_path: object) -> None:
    from pathlib import Path

    from raybd.training import Checkpoint

    at, _ = world("badnets", 1)
    ends = []
    for stop in (False, True):
        torch.manual_seed(3)
        model = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.25)
        context = replace(
            at, model=model, train_config=TrainConfig(epochs=3), checkpoint=Checkpoint(Path(str(tmp_path)) / "c", 0)
        )
        if stop:
            epochs = quick("ft_sam").train(context)
            next(epochs), next(epochs)
        context = replace(context, model=copy.deepcopy(model))
        list(quick("ft_sam").train(context))
        (Path(str(tmp_path)) / "c").unlink(missing_ok=True)
        ends.append(context.model.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
