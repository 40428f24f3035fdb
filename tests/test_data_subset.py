"""Parts of data sets by name: which images, in which order, under which numbers."""

import pytest
import torch

import raybd.data
from raybd.data.subset import Subset, parse
from raybd.errors import InputError
from raybd.types import Data


def test_a_pair_has_its_images_in_file_order_under_new_numbers(digits: Data) -> None:
    pair = raybd.data.load("digits[7,1]")
    for half, whole in ((pair.train, digits.train), (pair.test, digits.test)):
        kept = (whole.y == 7) | (whole.y == 1)
        assert torch.equal(half.x, whole.x[kept])
        assert half.y.tolist() == [{7: 0, 1: 1}[y] for y in whole.y[kept].tolist()]
    assert pair.classes == ("7", "1")
    assert pair.name == "digits[7,1]"
    assert pair.mean[0] == pytest.approx(float(pair.train.x.double().mean()) / 255, rel=1e-12)


def test_order_and_number_make_other_data_and_limits_are_nested() -> None:
    names = ["digits[7,1]", "digits[1,7]", "digits[7,1;100]", "digits[7,1;40]", "digits[7,1,4]"]
    parts = {name: raybd.data.load(name) for name in names}
    assert len({part.fingerprint for part in parts.values()}) == len(names)
    large, small = ({x.numpy().tobytes() for x in parts[n].train.x} for n in ("digits[7,1;100]", "digits[7,1;40]"))
    assert (len(large), len(small)) == (100, 40)
    assert small < large
    assert torch.equal(parts["digits[7,1;40]"].test.x, parts["digits[7,1]"].test.x)
    assert raybd.data.load("digits[7,1;40]").fingerprint == parts["digits[7,1;40]"].fingerprint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits[7,7]", "names class 7 twice"),
        ("digits[7]", "is of one class"),
        ("digits[]", "a subset is written [7,1]"),
        ("digits[7,,1]", "a subset is written"),
        ("digits[7,1;many]", "a subset is written"),
        ("digitz[7,1]", "did you mean digits?"),
    ],
)
def test_names_that_are_no_part(name: str, said: str) -> None:
    problems = raybd.data.check_name(name)
    assert any(said in problem for problem in problems)
    with pytest.raises(InputError):
        raybd.data.load(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits[7,12]", "no class 12"),
        ("digits[7,x]", "unknown class: x"),
        ("digits[7,-1]", "unknown class: -1"),
        ("digits[7,1;9999]", "only 260 training"),
    ],
)
def test_parts_that_the_data_has_not(name: str, said: str) -> None:
    assert raybd.data.check_name(name) == []
    with pytest.raises(InputError, match=said):
        raybd.data.load(name)


def test_names_and_custom_go_with_the_whole() -> None:
    assert parse("npz:/a[b].npz") == ("npz:/a[b].npz", None)
    assert parse("npz:/a.npz[3,0;5]") == ("npz:/a.npz", Subset((3, 0), 5))
    assert str(Subset((3, 0), 5)) == "[3,0;5]"
    assert raybd.data.augmentation("cifar10[0,6]") == (4, True)
