"""What VIBE does with features whose truth is known: a trigger of strength tau on Gaussian classes."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from raybd.defences.vibe.em import Em, EmConfig, FrozenFeatures
from raybd.defences.vibe.heads import Heads, Variant
from raybd.types import Data

K, D, N, POISON = 10, 64, 5000, 500


def drawn(tau: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training features, given labels, true labels, clean test features and triggered test features with truth."""
    rng = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(K, D, generator=rng), dim=1)
    trigger = torch.randn(D, generator=rng)
    basis = torch.linalg.qr(means.T).Q
    trigger = F.normalize(trigger - basis @ (basis.T @ trigger), dim=0)

    def sample(true: Tensor) -> Tensor:
        return F.normalize(means[true] + 0.9 * torch.randn(len(true), D, generator=rng) / math.sqrt(D), dim=1)

    true = torch.arange(N) % K
    x, y = sample(true), true.clone()
    victims = (true != 0).nonzero()[:, 0]
    victims = victims[torch.randperm(len(victims), generator=rng)[:POISON]]
    x[victims] = F.normalize(x[victims] + tau * trigger, dim=1)
    y[victims] = 0
    test = torch.arange(2000) % K
    clean = sample(test)
    return x, y, true, clean, F.normalize(clean + tau * trigger, dim=1)


def defended(tau: float, variant: Variant, seed: int, **settings: object) -> dict[str, float]:
    x, y, true, clean, triggered = drawn(tau, seed)
    config = EmConfig(iterations=400, e_steps=10, learning_rate=0.01, batch_size=256, **settings)  # type: ignore[arg-type]
    heads = Heads(K, D, variant, kappa=10, nu=10, scale=0.02)
    em = Em(heads, FrozenFeatures(x), y, config, seed)
    em.start()
    em.advance(1)
    first = float((em.labels == true).float().mean())
    em.advance(400)
    test = torch.arange(2000) % K
    victims = y != true
    with torch.no_grad():
        return {
            "accuracy": float((heads.clean_log(clean).argmax(1) == test).float().mean()),
            "success": float((heads.clean_log(triggered).argmax(1) == 0)[test != 0].float().mean()),
            "kept": float((em.labels[victims] == 0).float().mean()),
            "first": first,
        }


def undefended(tau: float, seed: int) -> float:
    """The attack success rate of a linear classifier on the same features."""
    x, y, _, _, triggered = drawn(tau, seed)
    model = LogisticRegression(C=100, max_iter=300).fit(x.numpy(), y.numpy())
    return float((model.predict(triggered.numpy()) == 0)[torch.arange(2000) % K != 0].mean())


@pytest.mark.parametrize("variant", ["A", "F"])
def test_no_poison_is_kept_where_its_images_look_like_their_class(variant: Variant) -> None:
    for tau in (0.0, 0.5, 1.0, 1.5):
        found = defended(tau, variant, 0)
        assert found["accuracy"] >= 0.99
        assert found["success"] <= 0.15, f"tau {tau}"
        assert found["kept"] <= 0.15
        assert found["first"] >= 0.93
        assert (undefended(tau, 0) > 0.95) == (tau > 0)


@pytest.mark.parametrize("variant", ["A", "F"])
def test_a_trigger_that_outshines_the_class_is_not_defended(variant: Variant) -> None:
    """What holds here would be leaking labels: nothing in the features says that these images are one class or two."""
    for tau, least, first in ((2.0, 0.2, 0.93), (3.0, 0.6, 0.88)):
        found = defended(tau, variant, 0)
        assert found["success"] >= least
        assert found["first"] <= first


def test_a_first_e_step_that_reads_labels_keeps_the_poison() -> None:
    for seed in (0, 1):
        assert defended(1.0, "F", seed)["success"] <= 0.12
        assert defended(1.0, "F", seed, blind_start=False)["success"] >= 0.8


def test_without_poison_nothing_is_lost() -> None:
    x, _, true, clean, _ = drawn(0.0, 1)
    test = torch.arange(2000) % K
    plain = LogisticRegression(C=100, max_iter=300).fit(x.numpy(), true.numpy())
    heads = Heads(K, D, "A", 10, 10, 0.02)
    em = Em(heads, FrozenFeatures(x), true, EmConfig(iterations=400, e_steps=10), 1)
    em.start()
    em.advance(400)
    assert (em.labels == true).float().mean() >= 0.97
    ours = float((heads.clean_log(clean).argmax(1) == test).float().mean())
    assert ours >= plain.score(clean.numpy(), test.numpy()) - 0.01


@pytest.mark.parametrize("patch", [1, 2])
def test_digits_by_their_principal_components(digits: Data, patch: int) -> None:
    x = torch.cat([digits.train.x, digits.test.x]).clone()
    y = torch.cat([digits.train.y, digits.test.y])
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=rng)
    train, test = order[:1297], order[1297:]
    victims = train[y[train] != 0][:129]
    stamped = x.clone()
    stamped[..., -patch:, -patch:] = 255
    given, seen = y.clone(), x.clone()
    given[victims], seen[victims] = 0, stamped[victims]
    pca = PCA(32, random_state=0).fit(seen[train].flatten(1).numpy() / 255)
    v, clean, triggered = (
        torch.from_numpy(pca.transform(part.flatten(1).numpy() / 255)).float()
        for part in (seen[train], x[test], stamped[test])
    )
    accuracies, successes = [], []
    for seed in range(2):
        heads = Heads(10, 32, "A", 10, 10, 0.02)
        em = Em(heads, FrozenFeatures(v), given[train], EmConfig(iterations=2000, e_steps=10), seed)
        em.start()
        em.advance(2000)
        with torch.no_grad():
            accuracies.append(float((heads.clean_log(clean).argmax(1) == y[test]).float().mean()))
            successes.append(float((heads.clean_log(triggered).argmax(1) == 0)[y[test] != 0].float().mean()))
    assert min(accuracies) >= 0.93, (accuracies, successes)
    assert max(successes) <= 0.10, (accuracies, successes)
