"""Noise inside networks: where it is, how much, whose random numbers, and what stays as it was without it."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier, build_model
from raybd.models.noise import NoisyReLU, add_noise, shared_noise, without_noise
from raybd.models.resnet import BasicBlock, PreActBlock
from raybd.models.small_cnn import SmallCnn
from raybd.seeds import forked_rng
from tests.conftest import check_model

SITES = {"small_cnn": 3, "resnet18": 16, "preact_resnet18": 16, "torchvision:vgg11_bn": 8}
OWN = [name for name in SITES if ":" not in name]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(name: str, noise: float, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    width = 1.0 if ":" in name else 0.25
    return cast(
        "Classifier", build_model(name, (3, 32, 32), 10, [0.5] * 3, [0.25] * 3, width=width, noise=noise)
    ).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("name", "sites"), SITES.items())
def test_sites(name: str, sites: int) -> None:
    with torch.device("meta"):
        plain, noisy = make(name, 0.0), make(name, 0.4)
    assert not any(isinstance(part, NoisyReLU) for part in plain.modules())
    assert [part.noise for part in noisy.modules() if isinstance(part, NoisyReLU)] == [0.4] * sites
    assert (plain.noise, noisy.noise) == (0, 0.4)
    relus = [part for part in noisy.modules() if isinstance(part, nn.ReLU)]
    # Left without noise: the stem's, which is the first of the first block in pre-activation; VGG's hidden layers'.
    assert len(relus) == {"small_cnn": 0, "resnet18": 1, "preact_resnet18": 1, "torchvision:vgg11_bn": 2}[name]


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_without_noise_it_is_the_network_without(name: str) -> None:
    """The same weights from the same seed, and bit for bit the same logits."""
    plain, noisy, x = make(name, 0.0), make(name, 0.4), images()
    assert plain.state_dict().keys() == noisy.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), noisy.state_dict().values(), strict=True))
    with without_noise():
        assert torch.equal(noisy(x), plain(x))
    assert not torch.equal(noisy(x), plain(x))


def test_without_noise_no_random_number_is_drawn() -> None:
    state, model = torch.random.get_rng_state(), make("small_cnn", 0.0)
    torch.random.set_rng_state(state)
    model.train()(images())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", OWN)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = make(name, 0.4).train()
    F.cross_entropy(model(images(4)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_basic_block_by_hand() -> None:
    """Noise after the first ReLU, and after the last, drawn in that order."""
    torch.manual_seed(0)
    block, x = BasicBlock(4, 4, 1, noise=0.3).eval(), torch.randn(2, 4, 6, 6)
    with forked_rng(1, "test", device=CPU):
        found = block(x)
    with forked_rng(1, "test", device=CPU):
        first, second = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    hidden = block.bn1(block.conv1(x)).clamp(min=0) + 0.3 * first
    expected = (block.bn2(block.conv2(hidden)) + x).clamp(min=0) + 0.3 * second
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_preact_block_by_hand() -> None:
    torch.manual_seed(0)
    block, x = PreActBlock(4, 4, 1, noise=0.3).eval(), torch.randn(2, 4, 6, 6)
    with forked_rng(1, "test", device=CPU):
        found = block(x.clone())
    with forked_rng(1, "test", device=CPU):
        first, second = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    hidden = block.conv1(block.bn1(x).clamp(min=0) + 0.3 * first)
    torch.testing.assert_close(found, block.conv2(block.bn2(hidden).clamp(min=0) + 0.3 * second) + x)


@torch.no_grad()
def test_last_site_and_head() -> None:
    """Pooled, noise of a 2x2 map halves; the head reads features with noise of the whole size."""
    model = cast("Classifier", build_model("small_cnn", (1, 8, 8), 10, [0.5], [0.25], noise=0.4)).eval()
    last = cast("nn.Sequential", cast("SmallCnn", model).blocks[-1])
    cast("nn.BatchNorm2d", last[1]).weight.zero_()  # nothing comes through the last block but its own noise
    t = model.features(torch.zeros(4000, 1, 8, 8))
    assert float(t.std()) == pytest.approx(0.4 / 2, rel=0.01)
    logits = model.classify(torch.zeros(20000, 64))
    torch.testing.assert_close(logits.std(0), 0.4 * model.head.weight.norm(dim=1), rtol=0.03, atol=0)


@torch.no_grad()
def test_forked_rng() -> None:
    """Evaluation draws from its own stream and leaves the global one alone, whatever happens inside."""
    model, x = make("small_cnn", 0.4), images()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    found = []
    for names in (("clean", 1), ("clean", 1), ("clean", 2), ("poisoned", 1)):
        with forked_rng(0, *names, device=CPU):
            found.append(model(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])
    with pytest.raises(ZeroDivisionError), forked_rng(0, "clean", device=CPU):
        raise ZeroDivisionError
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_noise_has_the_right_law_in_every_memory_format(form: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.full((64, 16, 8, 8), 3.0).to(memory_format=form)
    out = add_noise(x, 0.5)
    assert out.is_contiguous(memory_format=form)
    noise = (out - 3) / 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=5 / noise.numel() ** 0.5)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float(torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max()) < 0.2


def test_shared_noise() -> None:
    """8 images in fours, 5 draws each: shared within a four, independent between draws and between fours."""
    torch.manual_seed(0)
    with shared_noise(4, 5):
        noise = add_noise(torch.zeros(8 * 5, 200), 2.0).view(2, 4, 5, 200)
    assert torch.equal(noise[:, :1].expand_as(noise), noise)
    rows = noise[:, 0].flatten(0, 1)
    assert float(torch.corrcoef(rows).fill_diagonal_(0).abs().max()) < 0.3
    assert float(rows.std()) == pytest.approx(2, rel=0.1)
    assert not torch.equal(add_noise(torch.zeros(2, 9), 1.0)[0], add_noise(torch.zeros(2, 9), 1.0)[1])


@pytest.mark.parametrize(
    ("name", "noise", "text"),
    [
        ("torchvision:mnasnet0_5", 0.4, "torchvision:mnasnet0_5 has no setting noise (it has: none): say --noise 0"),
        ("small_cnn", -0.1, "noise of small_cnn must not be negative, and finite, got -0.1"),
        ("resnet18", float("nan"), "noise of resnet18 must not be negative, and finite, got nan"),
        ("tests.test_models:ends_in_softmax", 0.4, "has no setting noise"),
    ],
)
def test_refusals(name: str, noise: float, text: str) -> None:
    (problem,) = check_model(name, (3, 32, 32), 10, 1.0, None, noise)
    assert text in problem
    with pytest.raises(InputError, match="noise"):
        build_model(name, (3, 32, 32), 10, [0.5] * 3, [0.5] * 3, noise=noise)


@pytest.mark.parametrize("name", SITES)
def test_a_check_with_noise_leaves_the_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    assert check_model(name, (3, 32, 32), 10, 1.0, None, 0.3) == []
    assert torch.equal(before, torch.random.get_rng_state())
