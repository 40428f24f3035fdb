"""Outlier communities: images that a trigger has moved to a region of their own, where EM would keep them.

The graph joins each image with its 50 nearest neighbours, either way; Leiden's method (Traag, Waltman and van Eck,
arXiv:1810.08473) parts it at the first resolution that gives K + 1 communities, else at that nearest to it. scikit-
network finds them: compiled, and unlike leidenalg and igraph not under the GPL.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sknetwork.clustering import Leiden

from raybd.errors import InputError
from raybd.seeds import derive

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Score = Literal["distance", "composition"]
NEIGHBOURS = 50
RESOLUTIONS = np.linspace(0.1, 3, 50)
FAR = 0.275  # published bound of the distance score
PURE = 0.9  # share of a community that has one given label, above which it may be foreign to that label
MIXED = 3.0  # times the median community's odds of spread between classes, above which content is of many classes


def outliers(
    v: Array, y: Labels, classes: int, score: Score, seed: int, heartbeat: Callable[[], None] = lambda: None
) -> NDArray[np.bool_]:
    """Which of the images with features `v` (N, D) and given labels `y` (N,) lie in outlier communities (N,).

    `heartbeat` is called at every resolution that is tried.

    Raises:
        InputError: fewer than 3 images, or features that are not finite.
    """
    if len(v) < 3 or not np.isfinite(v).all():
        raise InputError(f"the outlier filter needs 3 finite rows of features or more, got {len(v)}")
    members = communities(v, classes, seed, heartbeat)
    bad = by_distance(v, members) if score == "distance" else by_composition(v, y, members)
    return np.isin(members, bad)


def communities(v: Array, classes: int, seed: int, heartbeat: Callable[[], None] = lambda: None) -> Labels:
    """The community (N,) of each row of `v` (N, D), numbered from 0."""
    from sklearn.neighbors import kneighbors_graph

    near = kneighbors_graph(v, min(NEIGHBOURS, len(v) - 1), mode="connectivity", include_self=False)
    graph = csr_matrix(near.maximum(near.T))
    best: Labels = np.zeros(len(v), np.int64)
    for resolution in RESOLUTIONS:
        found = Leiden(resolution, shuffle_nodes=True, random_state=derive(seed, "leiden") % 2**32)
        labels = found.fit_predict(graph).astype(np.int64)
        heartbeat()
        if abs(labels.max() - classes) < abs(best.max() - classes):
            best = labels
        if best.max() == classes or labels.max() > 2 * classes:  # K + 1 of them; or far more, and more yet to come
            break
    return best


def by_distance(v: Array, members: Labels) -> list[int]:
    """The one community, if any, whose mean distance to the others' centroids is least like the others' (published).

    a_i = mean_j |c_i - c_j|, i itself included, over the largest; score |a_i - mean of the other a|; above 0.275.
    """
    centroids = _centroids(v, members)
    if len(centroids) < 2:
        return []
    mean = np.linalg.norm(centroids[:, None] - centroids, axis=2).mean(1)
    mean = mean / mean.max()
    score = np.abs(mean - (mean.sum() - mean) / (len(mean) - 1))
    return [int(score.argmax())] if score.max() > FAR else []


def by_composition(v: Array, y: Labels, members: Labels) -> list[int]:
    """The communities of one given label, beside another of it, whose content is of many classes.

    A trigger's community holds images of all victims' classes: what spreads it lies along what parts the classes. In
    a community of one class those directions hold no more than their share. Where a trigger's images fell apart, the
    pieces next to such a community go with it. Any number may go, but never a label's last community.
    """
    labels = [np.bincount(y[members == i]) for i in range(int(members.max()) + 1)]
    major = np.array([seen.argmax() for seen in labels])
    pure = np.array([seen.max() / seen.sum() for seen in labels]) >= PURE
    spread, next_to = between_odds(v, y, members), _nearest(_centroids(v, members))
    bad: list[int] = []
    for label in np.unique(major[pure]):
        own = np.flatnonzero(pure & (major == label))
        mixed = own[spread[own] > MIXED * np.median(spread)]
        found = [*mixed[np.argsort(-spread[mixed])], *own[np.isin(next_to[own], mixed) & ~np.isin(own, mixed)]]
        bad += [int(i) for i in found[: (major == label).sum() - 1]]
    return bad


def between_odds(v: Array, y: Labels, members: Labels) -> Array:
    """Of each community's variance, that in the directions that part the given labels' means over all other (C,)."""
    means = np.stack([v[y == label].mean(0) for label in np.unique(y)])
    _, sizes, axes = np.linalg.svd(means - means.mean(0), full_matrices=False)
    axes = axes[sizes > 1e-6 * sizes.max()]
    odds = []
    for i in range(int(members.max()) + 1):
        rest = v[members == i] - v[members == i].mean(0)
        between, whole = np.square(rest @ axes.T).sum(), np.square(rest).sum()
        odds.append(between / max(whole - between, 1e-12 * whole, 1e-30))
    return np.array(odds)


def _centroids(v: Array, members: Labels) -> Array:
    return np.stack([v[members == i].mean(0) for i in range(int(members.max()) + 1)])


def _nearest(centroids: Array) -> Labels:
    """Of each of `centroids` (C, D), the nearest other (C,)."""
    distance = np.linalg.norm(centroids[:, None] - centroids, axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest: Labels = distance.argmin(1)
    return nearest
