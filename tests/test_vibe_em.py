"""Expectation-maximisation: where it must climb, and what must not change it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from raybd.defences.vibe.em import Em, EmConfig, FrozenFeatures
from raybd.defences.vibe.heads import Heads, Variant
from raybd.defences.vibe.transport import Transport
from raybd.errors import InputError
from tests.test_vibe_synthetic import D, K, drawn

SHORT = EmConfig(iterations=60, e_steps=6)


def run(x: Tensor, y: Tensor, config: EmConfig = SHORT, variant: Variant = "F", seed: int = 0, to: int = 60) -> Em:
    em = Em(Heads(K, D, variant, 10, 10, 0.02), FrozenFeatures(x), y, config, seed)
    em.start()
    em.advance(to)
    return em


def same(first: Em, second: Em) -> bool:
    weights = zip(first.heads.parameters(), second.heads.parameters(), strict=True)
    return torch.equal(first.labels, second.labels) and all(torch.equal(a, b) for a, b in weights)


def test_exact_em_never_falls() -> None:
    """Tabular heads at lambda = 1 without a column constraint: x in 0..39, l = x mod 4, y = l with 0.775."""
    torch.manual_seed(0)
    x = torch.randint(0, 40, (5000,))
    flip = 0.7 * torch.eye(4, dtype=torch.float64) + 0.075
    y = torch.multinomial(flip[x % 4], 1)[:, 0]
    clean = torch.rand(40, 4, dtype=torch.float64).add(0.5).log().log_softmax(1)
    given = (torch.eye(4, dtype=torch.float64) + 1).log().log_softmax(1)  # (l, y)
    free = Transport(torch.zeros(4, dtype=torch.float64), 1.0, 0.0, 0, 0, 0)
    climbed = []
    for _ in range(200):
        joint = clean[x] + given.T[y]
        likelihood = float(joint.logsumexp(1).mean())
        q = free.rows(joint)
        bound = float((q * joint).sum(1).mean() + torch.special.entr(q).sum(1).mean())
        assert bound == pytest.approx(likelihood, abs=1e-9)
        climbed.append(likelihood)
        clean = torch.zeros(40, 4, dtype=torch.float64).index_add_(0, x, q).clamp_min(1e-300)
        clean = (clean / clean.sum(1, keepdim=True)).log()
        given = torch.zeros(4, 4, dtype=torch.float64).index_add_(0, y, q).T
        given = (given / given.sum(1, keepdim=True)).clamp_min(1e-300).log()
    assert all(b >= a - 1e-12 for a, b in zip(climbed, climbed[1:], strict=False))
    # The entropy of y given l = x mod 4 bounds it: 0.775 ln 0.775 + 0.225 ln 0.075 = -0.780, but for what x overfits.
    assert climbed[0] < -1.3
    assert -0.80 < climbed[-1] < -0.73


def test_a_soft_e_step_climbs_and_an_m_step_lowers_its_loss() -> None:
    x, y, *_ = drawn(1.0, 0)
    config = replace(SHORT, pseudolabels="soft", sharpness=2.0, prior_rate=0.0)
    em = run(x, y, config, to=10)

    def objective(q: Tensor, scores: Tensor) -> float:
        return float((q * scores).sum(1).mean() + torch.special.entr(q).sum(1).mean() / 2)

    assert em.targets is not None
    before, scores = em.targets.double(), torch.cat(em.scores()()).double()
    em.e_step()
    assert objective(em.targets.double(), scores) >= objective(before, scores) - 1e-6
    everyone = torch.arange(len(y))
    first = float(em.loss(x, everyone).detach())
    for _ in range(10):
        em.m_step()
    assert float(em.loss(x, everyone).detach()) < first


def test_the_first_e_step_does_not_read_the_labels() -> None:
    x, y, *_ = drawn(1.0, 0)
    em = Em(Heads(K, D, "F", 10, 10, 0.02), FrozenFeatures(x), y, SHORT, 0)
    em.start()
    em.e_step()
    blind = em.labels
    em.y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    em.e_step()
    assert torch.equal(em.labels, blind)
    em.iteration = 1
    em.e_step()
    assert not torch.equal(em.labels, blind)


@pytest.mark.parametrize("settings", [{}, {"pseudolabels": "annealed"}, {"unassigned": 0.05}])
def test_a_resumed_run_has_the_same_bits(settings: dict[str, Any]) -> None:
    x, y, *_ = drawn(1.0, 0)
    config = replace(SHORT, **settings)
    whole, half = run(x, y, config), run(x, y, config, to=25)
    again = Em(Heads(K, D, "F", 10, 10, 0.02), FrozenFeatures(x), y, config, 0)
    again.heads.load_state_dict(half.heads.state_dict())
    again.restore(half.state())
    again.advance(60)
    assert same(whole, again)


def test_the_seed_and_nothing_else_decides() -> None:
    x, y, *_ = drawn(1.0, 0)
    state = torch.random.get_rng_state()
    first = run(x, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert same(first, run(x, y))
    assert not same(first, run(x, y, seed=1))


def test_renamed_classes_are_found_under_their_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, *_ = drawn(0.5, 0)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(5))
    config = replace(SHORT, prior_rate=0.0)
    flat = torch.zeros(K)
    results = []
    for labels in (y, order[y]):
        em = Em(Heads(K, D, "F", 10, 10, 0.02), FrozenFeatures(x), labels, config, 0)
        em.start()
        em.heads.preference.data.copy_(flat)
        em.advance(60)
        results.append(em.labels)
    assert (order[results[0]] == results[1]).float().mean() > 0.999


def test_the_size_of_a_chunk_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, *_ = drawn(1.0, 0)
    whole = run(x, y)
    monkeypatch.setattr("raybd.defences.vibe.em.CHUNK", 700)
    assert torch.equal(run(x, y).labels, whole.labels)


def test_half_precision_scores_give_nearly_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, *_ = drawn(1.0, 0)
    whole = run(x, y, to=1)
    monkeypatch.setattr("raybd.defences.vibe.em.HALF", 1)
    half = run(x, y, to=1)
    assert half.scores()()[0].dtype == torch.float16
    assert (half.labels == whole.labels).float().mean() > 0.995


def test_e_steps_are_spread_evenly_and_end_where_labels_settle() -> None:
    x, y, *_ = drawn(0.5, 0)
    assert run(x, y).steps == 6
    assert run(x, y, replace(SHORT, flip_stop=0.99)).steps == 2


def test_the_unassigned_share_is_what_was_asked() -> None:
    x, y, *_ = drawn(1.0, 0)
    em = run(x, y, replace(SHORT, unassigned=0.1))
    left = em.labels == K
    assert abs(float(left.float().mean()) - 0.1) < 0.02
    index = left.nonzero()[:5, 0]
    assert float(em.loss(x[index], index).detach()) == 0.0


def test_the_posterior_tells_poison() -> None:
    x, y, true, *_ = drawn(1.0, 0)
    q, labels = run(x, y, EmConfig(iterations=300, e_steps=3), to=300).posterior()
    assert (q.sum(1) - 1).abs().max() < 1e-12
    doubt = 1 - q.gather(1, y[:, None])[:, 0]
    poison = y != true
    wins = (doubt[poison][:, None] > doubt[~poison][None]).double().mean()
    assert wins > 0.99
    assert (labels == true).float().mean() > 0.97


def test_features_that_cannot_be_used_are_refused() -> None:
    x, y, *_ = drawn(0.5, 0)

    def start(x: Tensor, y: Tensor, classes: int = K) -> None:
        Em(Heads(classes, D, "A", 10, 10, 0.02), FrozenFeatures(x), y, SHORT, 0).start()

    with pytest.raises(InputError, match="2 classes or more"):
        start(x, torch.zeros_like(y), 1)
    with pytest.raises(InputError, match="none has 3"):
        start(x[y != 3], y[y != 3])
    with pytest.raises(InputError, match="one row a label"):
        start(x[:-1], y)
    with pytest.raises(InputError, match="labels must be of 0 to 4"):
        start(x, y, 5)
    bad = x.clone()
    bad[7, 3] = math.nan
    with pytest.raises(InputError, match="1 of 5000 rows"):
        start(bad, y)


def test_every_image_comes_once_a_pass_in_an_order_of_its_own() -> None:
    x, y, *_ = drawn(0.5, 0)
    em = Em(Heads(K, D, "A", 10, 10, 0.02), FrozenFeatures(x[:1000]), y[:1000], SHORT, 0)
    passes = []
    for _ in range(2):
        seen = []
        for _ in range(4):
            seen.append(em._batch())
            em.iteration += 1
        assert [len(part) for part in seen] == [250] * 4
        passes.append(torch.cat(seen))
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in passes)
    assert not torch.equal(*passes)
