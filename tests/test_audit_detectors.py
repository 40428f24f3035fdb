"""The detectors of an audit against closed forms, exact laws and planted cases."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from raybd.auditing import features as audit_features
from raybd.auditing.features import components, expected_labels
from raybd.auditing.null import CLEAN, SUSPECTED, Null
from raybd.auditing.probing import donors
from raybd.auditing.ranking import RESEMBLANCE, STEPS, crowds, doubtful, planted, suspicion_of
from raybd.auditing.shared_windows import shared, surprise
from raybd.auditing.transplant import paste, salient_windows
from raybd.data import load
from raybd.models.base import Classifier
from raybd.seeds import stream


def test_surprise_is_poisson_s_tail_and_bounds_that_of_coin_tosses() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        chances = rng.random(12) * rng.random()
        law = np.ones(1)
        for p in chances:
            law = np.convolve(law, [1 - p, p])
        count = np.arange(math.ceil(chances.sum() + 1), 13)
        found = surprise(count, np.full(len(count), chances.sum()))
        assert found == pytest.approx(-np.log10(stats.poisson.sf(count - 1, chances.sum())), rel=1e-9)
        assert (10**-found >= [law[k:].sum() - 1e-12 for k in count]).all()
    assert surprise(np.array([0, 2]), np.array([0.5, 3.0])).tolist() == [0, 0]  # no more than are expected


def test_a_window_that_relabelled_images_share_is_found_and_no_other() -> None:
    """Ten images of many classes with one window and one label, among noise; the score is the law's own number."""
    rng = stream(0, "windows")
    n, k = 400, 10
    windows = torch.rand(6, n, 9, generator=rng) * 255
    content = torch.randint(0, 4, (n,), generator=rng)
    expected = torch.full((n, 4), 0.02, dtype=torch.float64)
    expected[torch.arange(n), content] = 0.94
    y = content.clone()
    victims = (content != 1).nonzero()[:k, 0]
    y[victims] = 1
    windows[4, victims] = windows[4, victims[0]].clone()
    scores = shared(windows, expected, y)
    wanted = -math.log10(stats.poisson.sf(k - 1, 0.02 * k))
    assert scores[victims.numpy()] == pytest.approx(wanted)
    assert np.delete(scores, victims.numpy()).max() == 0
    order = torch.randperm(n, generator=rng)
    assert shared(windows[:, order], expected[order], y[order]) == pytest.approx(scores[order.numpy()])
    common = windows.clone()
    common[4] = common[4, victims[0]].clone()  # what all share, as a background, is no group
    assert shared(common, expected, y).max() < wanted / 4  # chance pairs in other windows


@pytest.mark.parametrize("quantiles", [CLEAN, SUSPECTED])
def test_the_null_of_an_exponential_law_is_its_tail(quantiles) -> None:  # type: ignore[no-untyped-def]
    sample = np.random.default_rng(0).exponential(2.0, 200_000)
    null = Null.fit(sample, quantiles)
    assert null.scale == pytest.approx(2.0 * quantiles.lengthened, rel=0.03)
    scores = np.array([10.0, 20.0])
    lengthened = null.start / 2 + (scores - null.start) / (2 * quantiles.lengthened)
    assert null.evidence(scores) == pytest.approx(lengthened / math.log(10), rel=0.04)
    assert null.evidence(np.array([0.5])) == pytest.approx(0.25 / math.log(10), rel=0.02)  # the body: empirical
    shifted = Null.fit(3 * sample + 7, quantiles)
    assert shifted.evidence(3 * scores + 7) == pytest.approx(null.evidence(scores), rel=1e-9)


def test_what_is_planted_takes_no_part_in_its_null() -> None:
    rng = np.random.default_rng(1)
    clean = rng.exponential(1.0, 2000)
    poisoned = np.concatenate([clean[:1800], np.full(200, 50.0)])
    assert Null.fit(poisoned, SUSPECTED).evidence(np.array([50.0])) > 6


def test_the_verdict_counts_three_of_a_class_at_bonferroni_s_level() -> None:
    y = np.repeat([0, 1, 2], 100)
    quiet = np.zeros(300)
    strong = quiet.copy()
    bar = math.log10(2 * 2 * 300 / 0.05)
    strong[[0, 1, 2]], strong[[100, 101]], strong[200:210] = bar, 50.0, bar - 1e-6
    evidence = {"transplant": quiet, "shared_windows": strong, "vibe": quiet}
    found = planted(evidence, y, 0.05)
    assert found.nonzero()[0].tolist() == [0, 1, 2]
    suspicion = strong.copy()
    suspicion[50] = 2.5
    assert doubtful(found, suspicion, y).nonzero()[0].tolist() == [0, 1, 2, 50]
    assert not planted({"transplant": quiet, "shared_windows": quiet}, y, 0.05).any()


def test_a_crowd_of_one_class_is_planted_where_none_of_it_is_alone() -> None:
    """As many as Poisson's law of ten times the expected mean allows are none; images spread over classes neither."""
    y = np.repeat(np.arange(10), 100)
    bar, mean = 0.025 / (10 * len(STEPS)), RESEMBLANCE * 100 * 10**-3.0
    fewest = next(k for k in range(100) if stats.poisson.sf(k - 1, mean) <= bar)
    for count, spread, wanted in ((fewest, False, fewest), (fewest - 1, False, 0), (fewest, True, 0)):
        evidence = np.zeros(1000)
        evidence[np.arange(count) * (97 if spread else 1)] = 3.2
        assert crowds(evidence, y, 0.025).sum() == wanted
        assert planted({"transplant": evidence, "shared_windows": 0 * evidence}, y, 0.05).sum() == wanted
        assert not planted({"transplant": 0 * evidence, "shared_windows": evidence}, y, 0.05).any()


def test_the_others_order_only_what_the_decisive_leave_equal() -> None:
    evidence = {
        "transplant": np.array([1.0, 1.0, 4.0]),
        "shared_windows": np.array([0.0, 0.5, 0.0]),
        "vibe": np.array([9.0, 2.0, 0.0]),
        "spectral": np.array([9.0, 1e9, 0.0]),
    }
    assert suspicion_of(evidence).argsort().tolist() == [1, 0, 2]


def test_labels_are_expected_as_scikit_learn_does_from_the_other_folds() -> None:
    data = load("digits").train
    v = components(data.x[:400], 12)
    y = data.y[:400]
    found = expected_labels(v, y, 10, seed=0)
    fold = torch.randperm(400, generator=stream(0, "folds")) % audit_features.FOLDS
    held = fold == 2
    rows = v.double().numpy()
    mean, deviation = rows[~held].mean(0), rows[~held].std(0)
    c = 1 / (int((~held).sum()) * audit_features.PENALTY)
    other = LogisticRegression(C=c, tol=1e-8, max_iter=2000).fit((rows[~held] - mean) / deviation, y[~held])
    assert found[held].numpy() == pytest.approx(other.predict_proba((rows[held] - mean) / deviation), abs=2e-3)
    changed = y.clone()
    changed[held.nonzero()[0]] = (y[held.nonzero()[0]] + 1) % 10
    again = expected_labels(v, changed, 10, seed=0)
    assert torch.equal(again[held], found[held])  # no image has a say in what its own label should be


def test_components_are_those_of_scikit_learn() -> None:
    x = load("digits").train.x[:300]
    found = components(x, 5).double().numpy()
    other = PCA(5, whiten=True).fit_transform(x.flatten(1).double().numpy()) * math.sqrt(300 / 299)
    assert abs(found) == pytest.approx(abs(other), abs=1e-3)
    assert found.std(0) == pytest.approx(np.ones(5), abs=1e-5)


class Corner(Classifier):
    """Class 1 where the pixel at row 2, column 3 is bright, class 0 else."""

    def __init__(self) -> None:
        super().__init__((0.0,), (1.0,), 0.0)
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [10.0]]))
            self.head.bias.copy_(torch.tensor([5.0, 0.0]))

    def features(self, x: Tensor) -> Tensor:
        return x[:, 0, 2:3, 3]


def test_the_window_that_a_network_looks_at_is_found_and_pasted() -> None:
    x = torch.randint(0, 60, (40, 1, 8, 8), generator=stream(0, "x"), dtype=torch.uint8)
    x[:20, 0, 2, 3] = 255
    y = torch.arange(40) // 20 * -1 + 1
    network = Corner().eval()
    corners = salient_windows(network, x, y, 2)
    rows, columns = corners[:20].T
    assert ((rows >= 1) & (rows <= 2) & (columns >= 2) & (columns <= 3)).all()
    to = x[20:25].expand(3, 5, 1, 8, 8)
    made = paste(x[:3], corners[:3], to, 2)
    assert (made[:, :, 0, 2, 3] == 255).all()
    assert int((made != to).flatten(2).sum(2).max()) <= 4
    assert (to[:, :, 0, 2, 3] < 60).all()  # what is pasted on stays


def test_donors_have_other_labels_and_do_not_depend_on_the_batch() -> None:
    y = torch.arange(60) % 3
    whole = donors(y, torch.arange(60), 7, seed=1)
    assert (y[whole] != y[:, None]).all()
    assert torch.equal(donors(y, torch.tensor([41]), 7, seed=1)[0], whole[41])
