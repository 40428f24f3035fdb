"""The losses, LARS and the schedule of pretraining against plain loops, closed forms and invariances."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raybd.pretraining import PretrainConfig
from raybd.pretraining.lars import TRUST, Lars
from raybd.pretraining.loop import learning_rate
from raybd.pretraining.nnclr import NnClr, info_nce, nearest
from raybd.pretraining.simclr import nt_xent


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def plain_nt_xent(z: list[list[float]], temperature: float) -> float:
    n, total = len(z), 0.0
    for i in range(n):
        other = (i + n // 2) % n
        others = [math.exp(cosine(z[i], z[k]) / temperature) for k in range(n) if k != i]
        total -= math.log(math.exp(cosine(z[i], z[other]) / temperature) / sum(others))
    return total / n


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_its_definition(temperature: float) -> None:
    z = rows(10, 6)
    assert float(nt_xent(z, temperature)) == pytest.approx(plain_nt_xent(z.tolist(), temperature), rel=2e-6)


def test_nt_xent_in_closed_form() -> None:
    same = torch.ones(8, 3)
    assert float(nt_xent(same, 0.3)) == pytest.approx(math.log(7), rel=1e-6)
    apart = torch.eye(4).repeat(2, 1)  # each image its own axis: cosine 1 with its view, 0 with the six others
    assert float(nt_xent(apart, 0.5)) == pytest.approx(math.log(1 + 6 * math.exp(-2)), rel=1e-6)


def test_nt_xent_does_not_see_lengths_rotations_order_or_which_view_is_first() -> None:
    z = rows(12, 5)
    base = float(nt_xent(z, 0.2))
    turn = torch.linalg.qr(rows(5, 5, 1))[0]
    lengths = torch.rand(12, 1, dtype=torch.float64) * 9 + 0.1
    shuffle = torch.tensor([3, 1, 5, 0, 4, 2])
    for other in (z @ turn, z * lengths, z.roll(6, 0), z.view(2, 6, 5)[:, shuffle].reshape(12, 5)):
        assert float(nt_xent(other, 0.2)) == pytest.approx(base, rel=2e-6)
    broken = torch.cat([z[:6], z[6:].roll(1, 0)])
    assert float(nt_xent(broken, 0.2)) != pytest.approx(base, rel=1e-3)


def plain_info_nce(anchors: list[list[float]], predictions: list[list[float]], temperature: float) -> float:
    total = 0.0
    for i, anchor in enumerate(anchors):
        scores = [math.exp(cosine(anchor, p) / temperature) for p in predictions]
        total -= math.log(scores[i] / sum(scores))
    return total / len(anchors)


def test_nnclr_is_its_definition_and_its_queue_forgets_the_oldest() -> None:
    config = PretrainConfig(method="nnclr", hidden=8, projection=4, queue=7, temperature=0.3)
    torch.manual_seed(0)
    head = NnClr(5, config)
    before, features = head.queue.clone(), rows(8, 5).float()
    z = head.projector(features)
    q = head.predictor(z).tolist()
    z1, z2 = z[:4].tolist(), z[4:].tolist()
    head.train()

    def neighbours(points: list[list[float]]) -> list[list[float]]:
        return [max(before.tolist(), key=lambda one: cosine(one, point)) for point in points]

    expected = (plain_info_nce(neighbours(z1), q[4:], 0.3) + plain_info_nce(neighbours(z2), q[:4], 0.3)) / 2
    assert float(head(features).detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(head.queue[:4], torch.nn.functional.normalize(z[:4], dim=1))
    assert torch.equal(head.queue[4:], before[:3])


def test_nnclr_asks_the_predictor_and_not_the_neighbours() -> None:
    anchors, predictions = (torch.nn.functional.normalize(rows(4, 3, seed), dim=1) for seed in (0, 1))
    queue = torch.cat([anchors.flip(0), rows(3, 3, 2) / 100])
    assert torch.equal(nearest(anchors, queue), anchors)
    swapped = torch.tensor([2, 0, 3, 1])
    loss = float(info_nce(anchors, predictions, 0.2))
    assert float(info_nce(anchors[swapped], predictions[swapped], 0.2)) == pytest.approx(loss)
    assert float(info_nce(anchors, predictions[swapped], 0.2)) != pytest.approx(loss, rel=1e-3)
    head = NnClr(3, PretrainConfig(method="nnclr", hidden=4, projection=3, queue=5))
    head(rows(6, 3).float()).backward()
    assert not head.queue.requires_grad
    assert all(weight.grad is not None for weight in head.parameters())


def test_lars_is_its_formula() -> None:
    first, slopes, momentum, decay, rate = rows(3, 4), [rows(3, 4, s) for s in (1, 2, 3)], 0.9, 0.05, 0.7
    weight = torch.nn.Parameter(first.clone())
    optimizer = Lars([weight], rate, momentum, decay)
    expected, velocity = first.clone(), torch.zeros_like(first)
    for slope in slopes:
        weight.grad = slope.clone()
        optimizer.step()
        size, steep = math.sqrt(float((expected**2).sum())), math.sqrt(float((slope**2).sum()))
        local = TRUST * size / (steep + decay * size)
        velocity = momentum * velocity + rate * local * (slope + decay * expected)
        expected = expected - velocity
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)


def test_lars_leaves_biases_and_norms_to_sgd_without_decay() -> None:
    ours, theirs = (torch.nn.Parameter(rows(1, 5)[0].clone()) for _ in range(2))
    lars = Lars([ours], 0.3, 0.9, 0.5)
    sgd = torch.optim.SGD([theirs], 0.3, momentum=0.9)
    for seed in range(4):
        for weight, optimizer in ((ours, lars), (theirs, sgd)):
            weight.grad = rows(1, 5, seed)[0].clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_step_of_lars_does_not_see_the_scale_of_the_gradient_and_grows_with_the_weights() -> None:
    def moved(of_weight: float, of_slope: float) -> Tensor:
        weight = torch.nn.Parameter(rows(4, 4) * of_weight)
        start = weight.detach().clone()
        weight.grad = rows(4, 4, 1) * of_slope
        Lars([weight], 1.0, 0.0, 0.0).step()
        return (weight.detach() - start) / of_weight

    torch.testing.assert_close(moved(1, 1), moved(1, 1000))
    torch.testing.assert_close(moved(1, 1), moved(50, 1))
    assert float(moved(1, 1).norm() / rows(4, 4).norm()) == pytest.approx(TRUST)
    assert moved(1, 0).abs().max() == 0


def test_the_learning_rate_rises_straight_and_falls_as_a_cosine() -> None:
    config = PretrainConfig(epochs=10, warm_up=2, learning_rate=0.6)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.06 * k for k in range(1, 11)])
    assert rates[10:] == pytest.approx([0.3 * (1 + math.cos(math.pi * k / 40)) for k in range(40)])
    assert learning_rate(replace(config, warm_up=0), 0, 5) == 0.6
    assert learning_rate(replace(config, warm_up=99), 49, 5) == 0.6
