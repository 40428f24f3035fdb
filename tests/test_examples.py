"""The picture of a trial's trigger: several classes, true and predicted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from raybd.attacks import Attack, BadNets, Multi
from raybd.attacks.poisoning import PoisonSpec
from raybd.trials.examples import examples_of, varied
from raybd.types import Data, Images, MetricContext
from raybd.utils.figures import draw_examples
from tests.conftest import made_images

NAMES = ("ape", "bee", "cat", "dog")


def context(attack: Attack, test: Images) -> MetricContext:
    """Of a network that says `true + 1` of clean images and `wanted` of triggered ones."""
    spec, train = PoisonSpec(attack, 0.1, 0), made_images()
    data = Data("made", train, test, NAMES, "", (0.5,), (0.3,))
    triggered = spec.triggered(test, 4)
    return MetricContext(
        model=nn.Identity(),
        data=data,
        poisoned=spec.poison(train, 4),
        triggered=triggered,
        measured=spec.measured(test.y),
        clean_logits=nn.functional.one_hot((test.y + 1) % 4, 4).float(),
        triggered_logits=nn.functional.one_hot(triggered.y, 4).float(),
        members=tuple(member.name for member in attack.members()),
    )


def sorted_images() -> Images:
    """100 images of each class, as a folder is read."""
    images = made_images(400)
    return images.take(images.y.argsort(stable=True))


def test_a_sorted_set_shows_every_class_and_the_target_last() -> None:
    shown = examples_of(context(BadNets(target=1), sorted_images()))
    assert shown.true == ["ape", "cat", "dog", "bee"] * 2
    assert shown.clean_prediction == ["bee", "dog", "ape", "cat"] * 2
    assert shown.triggered_prediction == ["bee"] * 8
    assert torch.equal(shown.triggered.x, PoisonSpec(BadNets(target=1), 0.1, 0).triggered(shown.clean, 4).x)


def test_members_of_an_attack_take_turns() -> None:
    attack = Multi(attacks=("badnets", "blended"), targets=(0, 3))
    shown = examples_of(context(attack, sorted_images()))
    assert shown.triggered_prediction == ["ape", "dog"] * 4
    spec = PoisonSpec(attack, 0.1, 0)
    assert torch.equal(shown.triggered.x[1], spec.triggered_by(1, shown.clean, 4).x[1])


@pytest.mark.parametrize(
    ("y", "measured", "count", "index"),
    [
        ([0, 0, 0, 1, 2], [0, 0, 0, 1, 1], 4, [3, 4, 0, 1]),
        ([2, 1, 0, 0], [1, 1, 1, 1], 9, [2, 1, 0, 3]),
        ([0, 0, 0], [0, 0, 0], 2, [0, 1]),
    ],
)
def test_rounds_over_the_classes(y: list[int], measured: list[int], count: int, index: list[int]) -> None:
    assert varied(torch.tensor(y), torch.tensor(measured).bool(), count).tolist() == index


def test_wrong_predictions_are_red_and_long_names_leave_their_neighbours_alone(tmp_path: Path) -> None:
    images = Images(torch.full((2, 1, 8, 8), 200, dtype=torch.uint8), torch.tensor([0, 1]))
    right, wrong = [[("a", "a"), ("b", "b")]] * 2, [[("a", "a"), ("b", "b")], [("a", "x" * 40), ("b", "b")]]
    reds, widths = [], []
    for captions in (right, wrong):
        draw_examples(images, images, captions, tmp_path / "examples.png")
        pixels = np.asarray(Image.open(tmp_path / "examples.png")).astype(int)
        reds.append(int((pixels[..., 0] - pixels[..., 1] > 100).sum()))
        widths.append(pixels.shape[1])
    assert reds[0] == 0 < reds[1]
    assert widths[0] < widths[1] < 500
