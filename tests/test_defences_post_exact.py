"""The core computation of every repair against a closed form, NumPy or finite differences."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences import DEFENCES, TrainingContext, anp, clp, fine_pruning, ft_sam, ibau, nad, neural_cleanse, post
from raybd.errors import InputError
from raybd.models import Classifier, build_model
from raybd.models.lipschitz import channel_lipschitz, norm_after
from raybd.plugins import parse
from raybd.seeds import stream
from raybd.training import TrainConfig, fit
from raybd.types import Data


def network(digits: Data, name: str = "small_cnn", width: float = 0.5) -> Classifier:
    torch.manual_seed(0)
    model = build_model(name, digits.train.shape, 10, digits.mean, digits.std, width=width)
    assert isinstance(model, Classifier)
    return model


def context(digits: Data, **changes: object) -> TrainingContext:
    made = TrainingContext(
        model=network(digits), images=digits.train, classes=10, train_config=TrainConfig(epochs=2), seed=0
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def trained(digits: Data) -> Classifier:
    model = network(digits)
    list(fit(model, digits.train, TrainConfig(epochs=2), 0))
    return model


def test_channel_lipschitz_of_a_trained_network_by_numpy_svd(trained: Classifier) -> None:
    found = channel_lipschitz(trained)
    for block in (trained.blocks[0], trained.blocks[2], trained.blocks[4]):
        name = next(n for n, m in trained.named_modules() if m is block[0])
        weight, norm = block[0].weight.detach().numpy(), block[1]
        gain = np.abs(norm.weight.detach().numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        top = [np.linalg.svd(channel.reshape(len(channel), -1), compute_uv=False)[0] for channel in weight]
        np.testing.assert_allclose(found[name].numpy(), np.array(top) * gain, rtol=2e-5)


def test_clp_prunes_exactly_what_stands_out(trained: Classifier) -> None:
    model = copy.deepcopy(trained)
    assert list(norm_after(model)) == ["blocks.0.0", "blocks.2.0", "blocks.4.0"]
    before = copy.deepcopy(model)
    model.blocks[4][1].weight.data[7] = 100 * model.blocks[4][1].weight.data.abs().max()
    values = channel_lipschitz(model)["blocks.4.0"].double().numpy()
    expected = values > values.mean() + 3 * values.std(ddof=1)
    assert expected.sum() == 1
    assert clp.prune(model, 3.0) == pytest.approx(1 / (8 + 16 + 32))
    conv, norm = model.blocks[4][0], model.blocks[4][1]
    assert not conv.weight[7].any()
    assert norm.weight[7] == norm.bias[7] == 0
    rest = torch.arange(32) != 7
    assert torch.equal(norm.weight[rest], before.blocks[4][1].weight[rest])
    assert torch.equal(model.blocks[2][0].weight, before.blocks[2][0].weight)


def test_clp_follows_a_permutation_of_channels_and_spares_small_layers() -> None:
    values = torch.rand(40, generator=stream(0, "values"))
    values[5] = 9.0
    order = torch.randperm(40, generator=stream(0, "order"))
    assert torch.equal(clp.steep(values, 3.0)[order], clp.steep(values[order], 3.0))
    assert clp.steep(values, 3.0).nonzero().tolist() == [[5]]
    ten = torch.tensor([0.0] * 9 + [1e6])
    assert not clp.steep(ten, 3.0).any()  # (n - 1) / sqrt(n) = 2.85
    assert clp.steep(torch.tensor([0.0] * 10 + [1e6]), 3.0).sum() == 1
    assert not clp.steep(torch.ones(1), 3.0).any()


def test_anp_gradients_of_masks_against_finite_differences(trained: Classifier, digits: Data) -> None:
    model = copy.deepcopy(trained).double().eval()
    x, y = digits.train.x[:16].double() / 255, digits.train.y[:16]
    rng = stream(0, "anp test")
    sizes = [len(norm.weight) for norm in anp.norms(model).values()]
    assert sizes == [8, 16, 32]
    scales, shifts = ([(torch.rand(n, generator=rng).double() - 0.5) * 0.8 for n in sizes] for _ in range(2))
    masks = [torch.rand(n, generator=rng).double().requires_grad_() for n in sizes]

    def value(parts: list[Tensor]) -> Tensor:
        return anp.objective(model, parts, scales, shifts, x, y, 0.2)

    gradients = torch.autograd.grad(value(masks), masks)
    for layer, channel in ((0, 1), (1, 5), (2, 30)):
        ends = []
        for sign in (1, -1):
            moved = [mask.detach().clone() for mask in masks]
            moved[layer][channel] += sign * 1e-6
            ends.append(float(value(moved).detach()))
        assert float(gradients[layer][channel]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_anp_with_masks_of_one_is_the_network_and_its_adversary_stays_in_the_box(
    trained: Classifier, digits: Data
) -> None:
    model = copy.deepcopy(trained).eval()
    x, y = digits.train.x[:64].float() / 255, digits.train.y[:64]
    ones = [torch.ones_like(norm.weight) for norm in anp.norms(model).values()]
    none = [torch.zeros_like(one) for one in ones]
    plain = F.cross_entropy(model(x), y)
    assert torch.allclose(anp.masked_loss(model, ones, none, x, y), plain, atol=1e-6)
    with torch.random.fork_rng():
        scales, shifts = anp.adversary(model, ones, x, y, 0.4)
    assert all(float(part.abs().max()) <= 0.4 + 1e-6 for part in (*scales, *shifts))
    moved = [one + d for one, d in zip(ones, scales, strict=True)]
    worse = anp.masked_loss(model, moved, shifts, x, y)
    assert worse > plain + 0.1
    assert torch.allclose(anp.objective(model, ones, scales, shifts, x, y, 0.2), 0.2 * plain + 0.8 * worse, atol=1e-5)
    weights = [norm.weight.detach().clone() for norm in anp.norms(model).values()]
    ones[2][[3, 9]] = 0.19
    assert anp.prune(model, ones, 0.2) == pytest.approx(2 / 56)
    assert model.blocks[4][1].weight[[3, 9]].tolist() == [0, 0]
    assert torch.equal(model.blocks[2][1].weight, weights[1])


def test_nad_attention_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 0.0], [2.0, -1.0]], [[2.0, 0.0], [0.0, 1.0]]]])  # (1, 2, 2, 2)
    squares = np.array([5.0, 0.0, 4.0, 2.0])
    hand = squares / np.sqrt((squares**2).sum())
    np.testing.assert_allclose(nad.attention(maps).numpy()[0], hand, rtol=1e-6)
    other = torch.zeros(1, 3, 2, 2)
    other[0, :, 0, 0] = 5.0
    distance = ((hand - np.array([1.0, 0, 0, 0])) ** 2).mean()
    assert float(nad.distillation([maps], [other], (500.0,))) == pytest.approx(500 * distance, rel=1e-5)
    twice = nad.distillation([maps, maps, maps], [other, maps, other], (500.0, 7.0))
    assert float(twice) == pytest.approx(507 * distance, rel=1e-5)
    assert float(nad.distillation([maps], [-3 * maps], (500.0,))) == pytest.approx(0, abs=1e-9)  # scale and sign


@pytest.mark.parametrize(("name", "sides"), [("small_cnn", [8, 4, 2]), ("resnet18", [8, 4, 2])])
def test_nad_looks_at_each_resolution_once(digits: Data, name: str, sides: list[int]) -> None:
    model = network(digits, name, 0.1)
    with nad.stages(model) as seen:
        out = model(torch.rand(3, *digits.train.shape))
    assert out.shape == (3, 10)
    assert [part.shape[-1] for part in nad.last_of_each(seen)] == sides
    assert all(len(block._forward_hooks) == 0 for block in model.blocks)
    assert nad.last_of_each(seen)[0].min() >= 0  # after the ReLU


def test_the_hypergradient_against_finite_differences_on_a_concave_inner_problem() -> None:
    rng = stream(0, "hypergradient")
    a, b, c = (torch.randn(4, 4, generator=rng).double() for _ in range(3))
    a = a @ a.T / 4 + torch.eye(4).double()
    w = torch.randn(4, generator=rng).double().requires_grad_()

    def inner(d: Tensor) -> Tensor:  # -d'Ad/2 + d'B sin(w): its top is d(w) = A^-1 B sin(w)
        return -d @ a @ d / 2 + d @ b @ w.sin()

    def outer(d: Tensor) -> Tensor:
        return (d**3).sum() + (c @ w * d).sum() + (w**2).sum()

    def top(weights: Tensor) -> Tensor:
        return torch.linalg.solve(a, b @ weights.sin())

    (found,) = ibau.hypergradient(inner, outer, top(w.detach()), [w], 500, 0.2)
    differences = torch.autograd.functional.jacobian(lambda v: _total(top(v), v, c), w.detach())
    step, numeric = 1e-6, []
    for i in range(4):
        ends = []
        for sign in (1, -1):
            moved = w.detach().clone()
            moved[i] += sign * step
            ends.append(float(_total(top(moved), moved, c)))
        numeric.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(found.numpy(), numeric, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.numpy(), differences.numpy(), rtol=1e-9)
    (direct,) = ibau.hypergradient(inner, outer, top(w.detach()), [w], 0, 0.2)
    explicit = c.T @ top(w.detach()) + 2 * w.detach()
    np.testing.assert_allclose(direct.numpy(), explicit.numpy(), rtol=1e-12)
    assert not np.allclose(direct.numpy(), numeric, rtol=0.01)


def _total(d: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return (d**3).sum() + (c @ w * d).sum() + (w**2).sum()


def test_the_worst_perturbation_stays_in_its_ball_and_climbs() -> None:
    g = torch.tensor([[3.0, 4.0]])
    found = ibau.worst(lambda d: (d * g).sum(), torch.zeros(1, 2), 2.0, 5)
    assert torch.allclose(found, torch.tensor([[1.2, 1.6]]), atol=1e-6)


def test_the_sam_step_against_its_two_lines() -> None:
    rng = np.random.default_rng(0)
    w, g, a = rng.normal(size=6), np.zeros(6), rng.normal(size=(6, 6))
    a = a @ a.T
    parts = [torch.tensor(w[:2]).requires_grad_(), torch.tensor(w[2:]).requires_grad_()]

    def loss() -> Tensor:
        v = torch.cat(parts)
        return v @ torch.tensor(a) @ v / 2

    loss().backward()
    g = a @ w
    ft_sam.sharp_gradient(parts, loss, 0.7)
    e = 0.7 * w**2 * g / np.linalg.norm(np.abs(w) * g)
    np.testing.assert_allclose(torch.cat([p.grad for p in parts]).numpy(), a @ (w + e), rtol=1e-12)
    np.testing.assert_array_equal(torch.cat(parts).detach().numpy(), w)
    assert np.linalg.norm(e / np.abs(w)) == pytest.approx(0.7)


def test_ft_sam_s_loss_is_smoothed_where_that_is_asked_for(digits: Data) -> None:
    at = context(digits, train_config=TrainConfig(weight_decay=0.0))
    ends = []
    for defence in (ft_sam.FtSam(steps=2, label_smoothing=0.3), ft_sam.FtSam(steps=2)):
        model = network(digits)
        defence.repair(model, digits.test.take(torch.arange(60)), at)
        ends.append(model.head.bias.detach())
    assert not torch.equal(*ends)
    published = parse("defence", DEFENCES, "ft_sam:backdoorbench")
    assert isinstance(published, ft_sam.FtSam)
    assert (published.rho, published.learning_rate, published.label_smoothing) == (2.0, 0.01, 0.1)


def test_statistics_are_kept_while_the_weights_are_elsewhere(digits: Data) -> None:
    model = network(digits).train()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    with post.statistics_kept(model):
        model(torch.rand(8, *digits.train.shape))
    assert not norm.running_mean.any()
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 0


def test_fine_pruning_ranks_by_mean_features_whatever_the_order_of_the_images(
    trained: Classifier, digits: Data
) -> None:
    clean = digits.test.take(torch.arange(60))
    shuffled = clean.take(torch.randperm(60, generator=stream(0, "shuffle")))
    model, at = copy.deepcopy(trained), context(digits)
    means = fine_pruning.mean_features(model, clean, at)
    with torch.no_grad():
        hand = model.eval().features(model.normalise(clean.x.float() / 255)).double().mean(0)
    torch.testing.assert_close(means, hand, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(means, fine_pruning.mean_features(model, shuffled, at), rtol=1e-12, atol=0)
    order = means.argsort(stable=True)
    start = post.accuracy(model, clean, at)
    gone = [fine_pruning.prune(copy.deepcopy(model), order, some, at, 0.1) for some in (clean, shuffled)]
    assert torch.equal(gone[0], gone[1])
    kept = copy.deepcopy(model)
    fine_pruning.prune(kept, order, clean, at, 0.1)
    assert post.accuracy(kept, clean, at) >= start - 0.1
    assert not kept.head.weight[:, gone[0]].any()
    fine_pruning.silence(kept.head.weight, order[: len(gone[0]) + 1])
    assert post.accuracy(kept, clean, at) < start - 0.1  # one more would be too many


def test_networks_without_the_layers_are_refused() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for defence in (anp.Anp(), clp.Clp(), fine_pruning.FinePruning(), nad.Nad()):
        with pytest.raises(InputError, match="needs a network with"):
            defence.network(bare)
    assert ibau.Ibau().network(bare) is bare


def test_stamped_images_by_hand() -> None:
    x, rng = torch.rand(5, 1, 2, 2), torch.Generator().manual_seed(0)
    masks, patterns = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]]), torch.full((1, 1, 2, 2), 0.25)
    found = neural_cleanse.stamp_some(x, (masks, patterns), 0.4, rng)
    assert torch.equal(found[2:], x[2:])
    hand = torch.stack([torch.full((2,), 0.25), x[:2, 0, 0, 1], x[:2, 0, 1, 0], 0.5 * x[:2, 0, 1, 1] + 0.125], 1)
    torch.testing.assert_close(found[:2].flatten(1), hand)
