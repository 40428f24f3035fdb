"""Outlier communities on features whose truth is known."""

import networkx as nx
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.neighbors import kneighbors_graph
from sknetwork.clustering import Leiden, get_modularity

from raybd.defences.vibe.filter import by_composition, by_distance, communities, outliers
from raybd.errors import InputError
from tests.test_vibe_synthetic import K, drawn


def test_what_a_trigger_sets_apart_is_removed_by_composition() -> None:
    x, y, true, _, _ = drawn(2.0, 1)
    poison = (y != true).numpy()
    out = outliers(x.double().numpy(), y.numpy(), K, "composition", 1)
    assert out[poison].mean() > 0.99
    assert out[~poison].mean() < 0.01


def test_nothing_is_removed_where_nothing_is_poisoned() -> None:
    x, _, true, _, _ = drawn(0.0, 0)
    v = x[:2000].double().numpy()
    assert not outliers(v, true[:2000].numpy(), K, "composition", 0).any()


def test_pieces_of_a_torn_community_go_with_it() -> None:
    rng = np.random.default_rng(0)
    means = 5 * np.eye(40)[:4]  # four classes; axis 5 of 40 is the trigger's
    content = np.repeat(np.arange(4), 50)
    v = means[content] + 0.1 * rng.normal(size=(200, 40))
    mixed = means[rng.integers(1, 4, 40)] + 9 * np.eye(40)[5] + 0.1 * rng.normal(size=(40, 40))
    torn = means[np.full(20, 2)] + 9 * np.eye(40)[5] + 0.1 * rng.normal(size=(20, 40))
    y = np.concatenate([content, np.zeros(60, np.int64)])
    members = np.concatenate([content, np.full(40, 4), np.full(20, 5)])
    assert sorted(by_composition(np.concatenate([v, mixed, torn]), y, members)) == [4, 5]


def test_a_label_keeps_its_last_community() -> None:
    rng = np.random.default_rng(0)
    means = 5 * np.eye(40)[:4]
    content = np.repeat([1, 2, 3], 50)
    v = means[content] + 0.1 * rng.normal(size=(150, 40))
    mixed = means[rng.integers(1, 4, 50)] + 9 * np.eye(40)[5] + 0.1 * rng.normal(size=(50, 40))
    y = np.concatenate([content, np.zeros(50, np.int64)])
    members = np.concatenate([content, np.zeros(50, np.int64)])
    assert by_composition(np.concatenate([v, mixed]), y, members) == []
    halves = np.concatenate([content, np.repeat([0, 4], 25)])
    assert len(by_composition(np.concatenate([v, mixed]), y, halves)) == 1


def test_the_distance_score_is_its_formula() -> None:
    """Centroids at 0, 1 and 10: mean distances 11/3, 10/3, 19/3; over the largest, the last differs by 0.447."""
    v, members = np.array([[0.0], [1.0], [10.0]]), np.arange(3)
    assert by_distance(v, members) == [2]
    even = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    assert by_distance(even, members) == []


def test_the_communities_are_as_good_as_another_library_s() -> None:
    x, *_ = drawn(2.0, 0)
    near = kneighbors_graph(x[:600].numpy(), 15)
    graph = csr_matrix(near.maximum(near.T))
    ours = get_modularity(graph, Leiden(1.0, random_state=0).fit_predict(graph))
    network = nx.from_scipy_sparse_array(graph)
    theirs = nx.community.modularity(network, nx.community.louvain_communities(network, seed=0))
    assert ours > theirs - 0.01


def test_the_same_seed_gives_the_same_communities() -> None:
    x, *_ = drawn(2.0, 1)
    v = x[:1000].double().numpy()
    assert (communities(v, K, 4) == communities(v, K, 4)).all()


def test_features_that_cannot_be_filtered_are_refused() -> None:
    with pytest.raises(InputError, match="finite rows"):
        outliers(np.full((9, 2), np.nan), np.zeros(9, np.int64), 2, "distance", 0)
