"""The contract catches who breaks it."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from raybd.attacks import Attack, CoveredAttack, Trigger
from raybd.attacks.base import Shape
from raybd.contracts import attacks as contract
from raybd.contracts.attacks import check_attack
from raybd.errors import InputError
from raybd.types import Images


@dataclass(frozen=True, kw_only=True)
class Good(CoveredAttack):
    """Keeps every promise; those below break one each."""

    by: float = 40.0
    where: tuple[int, ...] = (0, 1)

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        x[:, :, self.where[0], self.where[1]] = 255 - x[:, :, self.where[0], self.where[1]] + self.by
        return x


@dataclass(frozen=True, kw_only=True)
class Idle(Good):
    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class LooksAtItsNeighbours(Good):
    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x * 0.7 + x.mean(0) * 0.3


@dataclass(frozen=True, kw_only=True)
class Unseeded(Good):
    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x + 50 * torch.rand(x.shape[1:])


@dataclass(frozen=True, kw_only=True)
class NotNested(Good):
    def draw_per_image(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        return torch.linspace(10, 200, len(images))

    def stamp_training(self, x: Tensor, trigger: Trigger) -> Tensor:
        return 255 - x + trigger.per_image.view(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class CoversNothing(Good):
    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class ForgetsASetting(Good):
    by: int = 40

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", self.by + 1)  # what is built from the record is another attack

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        return x + 40


@dataclass(frozen=True, kw_only=True)
class OneLayoutOnly(Good):
    on_bytes = True

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        x.view(len(x), -1)[:, 5] ^= 255
        return x


@dataclass(frozen=True, kw_only=True)
class ColourOnly(Good):
    def problems(self, shape: Shape, classes: int) -> list[str]:
        return [] if shape[0] == 3 else ["no colours"]


@dataclass(frozen=True, kw_only=True)
class RefusesAllToAll(Good):
    def problems(self, shape: Shape, classes: int) -> list[str]:
        return ["never mind"] if self.labels == "all_to_all" else []


def test_an_attack_of_one_s_own_passes() -> None:
    check_attack(Good())


@pytest.mark.parametrize(
    ("attack", "check"),
    [
        (Idle(), "check_exact"),
        (LooksAtItsNeighbours(), "check_nested"),
        (Unseeded(), "check_nested"),
        (NotNested(), "check_nested"),
        (CoversNothing(), "check_covers"),
        (ForgetsASetting(), "check_settings"),
        (OneLayoutOnly(), "check_test_images"),
        (ColourOnly(), "check_usable"),
        (RefusesAllToAll(), "check_labels"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_attack_that_breaks_a_promise_fails_where_it_does(attack: Attack, check: str) -> None:
    with pytest.raises((AssertionError, InputError, RuntimeError, TypeError)) as caught:
        check_attack(attack)
    names = [entry.name for entry in caught.traceback if entry.name.startswith("check_")]
    assert check == [name for name in names if name in vars(contract)][-1]
