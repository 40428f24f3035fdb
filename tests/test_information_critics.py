"""Trained critics: the factored layer, the stack, fresh noise, and the control that learns by heart."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.metrics.information.critics import (
    Critics,
    CriticTraining,
    Pairs,
    all_pairs,
    evaluate,
    fit,
)
from raybd.metrics.information.sampled_infonce import (
    Critic,
    SampledInfoNCE,
    sampled_infonce_bound,
    sampled_infonce_estimate,
    training_step,
)

NAMES = ["backdoor", "target_clean", "clean_1"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pairs(groups: int = 3, n: int = 48, draws: int = 6, u: int = 8, v: int = 12, seed: int = 0) -> Pairs:
    """T = A X + noise, of another A in each group."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, n, 1, v, generator=rng)
    a = torch.randn(groups, 1, v, u, generator=rng) / math.sqrt(v)
    return Pairs(x @ a + 0.5 * torch.randn(groups, n, draws, u, generator=rng), x)


def naive(critic: Critic, u: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """The same critic on B * K concatenated vectors."""
    both = torch.cat([u[:, None].expand(-1, index.shape[1], -1), v[index]], 2)
    return critic.last(critic.second(critic.first(both).relu()).relu()).squeeze(-1)


def test_factored_is_naive() -> None:
    """Paper mode's loss and every gradient agree to 1e-5, relative, in float32."""
    torch.manual_seed(0)
    critic, u, v = Critic(16, 48), torch.randn(32, 16), torch.rand(32, 48)
    other, negatives = copy.deepcopy(critic), torch.randint(32, (32, 64))
    ours = sampled_infonce_bound(critic, u, v, negatives)
    theirs = sampled_infonce_bound(lambda *args: naive(other, *args), u, v, negatives)
    ours.backward()
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for name in ("first.weight", "first.bias", "second.weight", "second.bias", "last.weight"):  # the last bias cancels
        mine, known = (part.get_parameter(name).grad for part in (critic, other))
        assert mine is not None
        assert known is not None
        assert float((mine - known).norm() / known.norm()) < 1e-5


def test_all_pairs_is_every_pair() -> None:
    data = pairs()
    critics = Critics(data, NAMES, seed=0)
    u, v = data.u[:, :5, 0], data.v[:, :7, 0]
    found = all_pairs(critics.parameters, u, v).detach()
    in_u, in_v, b1, w2, b2, w3 = (part.detach() for part in critics.parameters)
    for g, i, j in [(0, 0, 0), (1, 4, 6), (2, 3, 1)]:
        hidden = F.relu(torch.cat([u[g, i], v[g, j]]) @ torch.cat([in_u[g], in_v[g]]) + b1[g, 0])
        expected = F.relu(hidden @ w2[g] + b2[g, 0]) @ w3[g]
        assert float(found[g, i, j]) == pytest.approx(float(expected), abs=1e-6)


def test_pairs_belong_to_one_draw() -> None:
    numbers = torch.arange(2 * 3 * 4).view(2, 3, 4, 1)
    index, draw = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[3, 1], [0, 2]])
    u, v = Pairs(numbers, 100 + numbers).batch(index, draw)
    assert u.flatten().tolist() == [11, 1, 16, 18]
    assert torch.equal(v, 100 + u)
    _, still = Pairs(numbers, numbers[:, :, :1]).batch(index, draw)
    assert still.flatten().tolist() == [8, 0, 16, 16]


def test_stacked_is_looped() -> None:
    """Critics of three groups trained together are those trained one by one: 1e-4 after 40 steps."""
    data, train_config = pairs(), CriticTraining(steps=40, batch=32)
    together = Critics(data, NAMES, seed=0)
    estimates = fit(together, data, train_config)
    for g, name in enumerate(NAMES):
        own = Pairs(data.u[g : g + 1], data.v[g : g + 1])
        alone = Critics(own, [name], seed=0)
        torch.testing.assert_close(fit(alone, own, train_config)[:, 0], estimates[:, g], atol=1e-4, rtol=0)
        for mine, known in zip(alone.parameters, together.parameters, strict=True):
            torch.testing.assert_close(mine[0], known[g], atol=1e-4, rtol=0)


def test_training_approaches_the_truth_from_below() -> None:
    """T = X + noise, 4-d: I = 2 ln(1 + 1/s^2) = 2.77; on fresh draws, not above it, and above half of it."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 256, 1, 4, generator=rng)
    data = Pairs(x + torch.randn(1, 256, 20, 4, generator=rng) / math.sqrt(3), x)
    train, fresh = Pairs(data.u[:, :, :16], x), Pairs(data.u[:, :, 16:], x)
    critics = Critics(train, ["a"], seed=0)
    before = evaluate(critics, fresh)[0]
    inside = fit(critics, train, CriticTraining(steps=200, batch=64)).mean()
    after = evaluate(critics, fresh)[0]
    truth = 2 * math.log(4)
    assert before.lower < 0.1
    assert 0.6 * truth < after.lower < truth + 3 * after.error
    assert float(inside) - after.lower < 1
    assert (after.ceiling, after.samples, after.fresh) == (math.log(256), 256, True)


def test_evaluation_in_pieces_is_evaluation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pairs()
    critics = Critics(data, NAMES, seed=0)
    whole = evaluate(critics, data)
    monkeypatch.setattr("raybd.metrics.information.critics.CHUNK", 1)
    assert [e.lower for e in evaluate(critics, data)] == pytest.approx([e.lower for e in whole], abs=1e-6)


def test_one_cached_draw_is_learnt_by_heart() -> None:
    """Independent X and T, one draw each: above 3 in-sample, below -1 on others; truth 0 (specs section 8.6)."""
    rng = torch.Generator().manual_seed(0)
    cached, others = (
        Pairs(torch.randn(1, 300, 1, 64, generator=rng), torch.randn(1, 300, 1, 256, generator=rng)) for _ in range(2)
    )
    critics = Critics(cached, ["a"], seed=0)
    inside = float(fit(critics, cached, CriticTraining(steps=200, batch=64, learning_rate=1e-3))[-5:].mean())
    outside = evaluate(critics, others)[0].lower
    assert inside > 3
    assert outside < -1


def test_paper_mode_learns_below_its_ceiling() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(128, 6, generator=rng)

    def sample(index: Tensor) -> tuple[Tensor, Tensor]:
        return x[index] + 0.3 * torch.randn(len(index), 6), x[index]

    state = torch.random.get_rng_state()
    settings = SampledInfoNCE(batch=32, negatives=48, epochs=40, learning_rate=3e-3)
    found = sampled_infonce_estimate(sample, 128, settings, seed=0)
    assert 1.0 < found.value < found.ceiling < math.log(32)
    assert not found.fresh
    torch.random.set_rng_state(state)
    assert sampled_infonce_estimate(sample, 128, settings, seed=0).value == found.value


def test_a_step_returns_the_estimate_before_it() -> None:
    torch.manual_seed(0)
    critic, u, v = Critic(3, 4), torch.randn(8, 3), torch.randn(8, 4)
    negatives = torch.randint(8, (8, 5))
    before = sampled_infonce_bound(critic, u, v, negatives).item()
    optimizer = torch.optim.AdamW(critic.parameters(), lr=0.01)
    assert float(training_step(critic, optimizer, u, v, negatives)) == pytest.approx(before)
    assert sampled_infonce_bound(critic, u, v, negatives).item() > before
