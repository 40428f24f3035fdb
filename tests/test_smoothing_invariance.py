"""What must not change a vote, and what counting votes must not change."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.metrics.smoothing.network import _attempt, _body, _fold, _fold_for_cpu, inference_network
from raybd.metrics.smoothing.noise import block_size, noise
from raybd.metrics.smoothing.votes import VoteCounts, count_votes
from raybd.models import build_model
from raybd.models.noise import without_noise
from raybd.seeds import stream
from tests.smoothing_cases import SHAPE, Rule, half_space, point


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("small_cnn", (1, 8, 8), 10, [0.3], [0.3], width=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def digits_votes(
    points: list[int],
    batch: int | None = None,
    looks: tuple[int, ...] = (64,),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,  # so that no near tie is decided by how a processor sums a batch
) -> VoteCounts:
    every = torch.rand(2, 20, 1, 8, 8, generator=stream(7, "test")).to(dtype)
    return count_votes(small_network().to(dtype), every[:, points], points, [0.1, 0.4], looks, seed, batch)


def test_t7_moving_image_and_boundary_together_changes_no_vote() -> None:
    x, t = point().expand(8, *SHAPE), torch.randint(-4, 5, SHAPE, generator=stream(8, "test")).double() / 8
    rule, moved = (half_space(0.02, point() + shift) for shift in (0, t))
    still, there = (
        count_votes(network, image[None], range(8), [0.1, 0.3], [512], 0).votes
        for network, image in ((rule, x), (moved, x + t))
    )
    assert torch.equal(still, there)


def test_t7_neither_batch_nor_order_nor_company_changes_a_vote() -> None:
    whole = digits_votes(list(range(20))).votes
    assert whole.sum() == 2 * 2 * 20 * 64
    for batch in (32, 64, 1000, 8192):
        assert torch.equal(digits_votes(list(range(20)), batch).votes, whole)
    order = torch.randperm(20, generator=stream(9, "test")).tolist()
    assert torch.equal(digits_votes(order).votes, whole[:, :, order])
    assert torch.equal(digits_votes([3, 17]).votes, whole[:, :, [3, 17]])
    assert not torch.equal(digits_votes(list(range(20)), seed=1).votes, whole)


def test_t7_in_single_precision_a_batch_decides_near_ties_alone() -> None:
    whole = digits_votes(list(range(20)), dtype=torch.float32).votes
    assert (digits_votes(list(range(20))).votes - whole).abs().sum() <= 8  # 4 of 5,120 votes
    for batch in (32, 1000):
        other = digits_votes(list(range(20)), batch, dtype=torch.float32).votes
        assert (other - whole).abs().sum() <= 4


def test_t7_fewer_draws_are_a_prefix() -> None:
    points, shape, cpu = [4, 9], (3, 32, 32), torch.device("cpu")
    assert (block_size(shape), block_size((1, 28, 28)), block_size((3, 224, 224))) == (8, 32, 1)
    assert torch.equal(noise(0, [9], 3, shape, cpu)[0], noise(0, points, 3, shape, cpu)[1])
    rest = digits_votes(list(range(20)), looks=(40,)).votes
    more = digits_votes(list(range(20)), looks=(40, 64))
    assert torch.equal(more.first, rest)
    still = rest.amax(3) == 40
    assert still.any()
    assert not still.all()
    assert torch.equal(more.votes.sum(3), torch.where(still, 40, 64))
    assert torch.equal(more.votes[~still], digits_votes(list(range(20))).votes[~still])


def test_variants_and_sigmas_counted_together_are_those_counted_alone() -> None:
    images, sigmas = torch.rand(2, 3, 1, 8, 8, generator=stream(1, "test")), (0.1, 0.3, 0.6)
    together = count_votes(small_network(), images, range(3), sigmas, [32], 0)
    for v, variant in enumerate(images):
        for s, sigma in enumerate(sigmas):
            alone = count_votes(small_network(), variant[None], range(3), [sigma], [32], 0)
            assert torch.equal(together.votes[v, s], alone.votes[0, 0])
        assert torch.equal(together.noiseless[v], alone.noiseless[0])


def test_t7_two_variants_without_a_difference_have_no_gap() -> None:
    images = torch.rand(1, 5, 1, 8, 8, generator=stream(1, "test")).expand(2, 5, 1, 8, 8)
    counted = count_votes(small_network(), images, range(5), [0.2], [64], 0)
    assert torch.equal(counted.votes[0], counted.votes[1])
    assert torch.allclose(counted.soft.sum(-1), torch.ones(()))


def test_t7_noise_is_in_pixels_whatever_the_network_normalises() -> None:
    mean, std = (
        torch.tensor([0.5, 0.2, 0.7]).view(3, 1, 1).double(),
        torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1).double(),
    )
    w, sigma, points = torch.randn(48, 4, generator=stream(2, "test"), dtype=torch.float64), 0.1, range(8)
    images = torch.rand(8, *SHAPE, generator=stream(3, "test"), dtype=torch.float64)
    inside = Rule(lambda z: ((z.view(-1, *SHAPE) - mean) / std).flatten(1) @ w)
    counted = count_votes(inside, images[None], points, [sigma], [512], 0).votes[0, 0]

    z = torch.cat([noise(0, points, block, SHAPE, torch.device("cpu")) for block in range(16)], 1).double()
    normalised = ((images - mean) / std)[:, None]

    def count(scale: Tensor | float) -> Tensor:
        label = ((normalised + scale * z).flatten(2) @ w).argmax(2)
        return nn.functional.one_hot(label, 4).sum(1).int()

    assert torch.equal(counted, count(sigma / std))
    assert (counted - count(sigma)).abs().sum() > 100  # sigma meant in normalised units is noticed


def test_soft_votes_are_the_mean_softmax() -> None:
    model, images = small_network(), torch.rand(1, 3, 1, 8, 8, generator=stream(4, "test"))
    counted = count_votes(model, images, range(3), [0.3], [32], 0)
    z = noise(0, range(3), 0, (1, 8, 8), torch.device("cpu"))
    with torch.inference_mode():
        chance = model((images[0][:, None] + 0.3 * z).flatten(0, 1)).softmax(1).view(3, 32, 10)
        assert torch.equal(counted.noiseless[0], model(images[0]).argmax(1))
    assert torch.allclose(counted.soft[0, 0], chance.mean(1), atol=1e-5)


def test_t9_a_network_in_training_mode_is_refused() -> None:
    images = torch.rand(1, 2, 1, 8, 8)
    for part in ("", "blocks.0.1"):
        model = small_network()
        model.get_submodule(part).train()
        with pytest.raises(InputError, match="evaluation mode"):
            count_votes(model, images, range(2), [0.1], [32], 0)
        assert model.get_submodule(part).training


def test_t9_nothing_is_left_behind() -> None:
    model = small_network()
    state, weights = torch.get_rng_state(), [p.clone() for p in model.state_dict().values()]
    count_votes(model, torch.rand(1, 4, 1, 8, 8, generator=stream(5, "test")), range(4), [0.1], [32], 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.state_dict().values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())


OURS = ["small_cnn", "resnet18", "preact_resnet18"]
FOLDED = [(_fold, name, inside) for name in OURS for inside in (0.0, 0.4)]
FOLDED += [(_fold, "torchvision:vgg11_bn", 0.4)]  # half a gigabyte of weights: the fast tests have it once
FOLDED += [pytest.param(_fold, "torchvision:vgg11_bn", 0.0, marks=pytest.mark.calibration)]
FOLDED += [(_fold_for_cpu, name, inside) for name in OURS for inside in (0.0, 0.4)]  # oneDNN lacks a pooling of vgg's


@pytest.mark.parametrize(("rewrite", "name", "inside"), FOLDED)
def test_our_own_networks_are_folded_and_keep_their_logits(rewrite: Any, name: str, inside: float) -> None:
    """What cannot be traced is used as it is, three times as slow: without this test nobody would notice."""
    x = torch.rand(8, 3, 32, 32, generator=stream(6, "test"))
    model = build_model(name, (3, 32, 32), 10, (0.5,) * 3, (0.3,) * 3, noise=inside).eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.uniform_(-0.5, 0.5, generator=stream(7, "test"))
        norm.running_var.uniform_(0.5, 2, generator=stream(8, "test"))
    folded = _attempt(rewrite, _body(model), x)
    assert folded is not None
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) < len(norms)
    with torch.inference_mode(), without_noise():
        assert torch.allclose(inference_network(model, x[:4])(x), model(x), atol=1e-4)


def test_a_network_that_cannot_be_folded_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(nn.Module):
        """One batch norm behind two convolutions that share their weights: folding it twice would be wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
            self.norm.running_var.fill_(4.0)

        def forward(self, x: Tensor) -> Tensor:
            once = self.norm(self.conv(x))
            return self.norm(self.conv(once)).flatten(1)

    x, model = torch.rand(4, 1, 8, 8, generator=stream(7, "test")), Twice().eval()
    with torch.inference_mode():
        assert torch.allclose(inference_network(model, x)(x), model(x), atol=1e-6)
    assert "used as it is" in caplog.text
