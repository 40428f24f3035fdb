"""Shared windows: images of one label that look alike in a small window, and whose content foretells other labels.

For an image i of label c that its content does not foretell, and a place of the window, let G be the images that look
like i there (root mean square difference of at most `ALIKE`) and p_j the probability of c by the content of j. If the
window told nothing of labels beyond the content, k = #{j in G: y_j = c} would be a sum of independent coin tosses of
mean lambda = sum_G p_j. Its upper tail is at most that of a Poisson law (Hoeffding 1956, where k >= lambda + 1):

    score_i = max over places of -log10 P(Poisson(lambda) >= k).

A patch that was stamped on images of many classes, which were relabelled, is such a window; no network has to learn it,
so a dozen of images suffice. What more than `COMMON` of the images share, as an empty background, is no group. All
members of G with label c that their content does not foretell get the score of i, if theirs is not higher.

The null: the same with labels that are drawn from what the content foretells.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import gammainc
from torch import Tensor

from raybd.auditing.features import AuditFeatures, Floats, Heartbeat
from raybd.auditing.probing import reduced
from raybd.seeds import stream

GRID = 32  # pixels of an image's shorter side, to which larger images are reduced
SIDE = 3  # pixels of a window
ALIKE = 25.0  # grey values
COMMON = 0.05
UNFORETOLD = 0.5  # an image's own label is foretold with a probability below it
ASKED = 256  # images i at most: those whose labels are foretold least


def window_scores(features: AuditFeatures) -> tuple[Floats, Floats]:
    """The scores (N,) of the images, and those of drawn labels, which are the null's."""
    windows = _windows(features.images.x)
    drawn = torch.multinomial(features.expected, 1, generator=stream(features.seed, "drawn labels"))[:, 0]
    beat = features.context.heartbeat
    own, null = (shared(windows, features.expected, y, beat) for y in (features.images.y, drawn))
    return own, null


def shared(windows: Tensor, expected: Tensor, y: Tensor, heartbeat: Heartbeat = lambda: None) -> Floats:
    """The scores (N,) of labels `y` (N,) with `windows` (P, N, D) and the `expected` probabilities (N, K) of labels."""
    own = expected.gather(1, y[:, None])[:, 0]
    strange = own < UNFORETOLD
    asked = own.argsort(stable=True)[: min(ASKED, int(strange.sum()))]
    mean, same = expected[:, y[asked]].T, y[asked][:, None] == y
    best = torch.zeros(len(y), dtype=torch.float64)
    for window in windows:
        alike = torch.cdist(window[asked], window) <= ALIKE * window.shape[1] ** 0.5
        size = alike.sum(1)
        some = ((size > 1) & (size <= COMMON * len(y))).nonzero()[:, 0]
        if not len(some):
            continue
        alike, members = alike[some], alike[some] & same[some]
        score = surprise(members.sum(1).numpy(), (alike * mean[some]).sum(1).numpy())
        best = torch.maximum(best, (torch.from_numpy(score)[:, None] * (members & strange)).amax(0))
        heartbeat()
    found: Floats = best.numpy()
    return found


def surprise(count: np.ndarray, mean: Floats) -> Floats:
    """-log10 P(Poisson(`mean`) >= `count`), (n,), at most 300; 0 where the count is not above the mean."""
    tail = gammainc(np.maximum(count, 1), mean)  # P(Poisson(m) >= k) is the regularised lower incomplete gamma function
    found: Floats = np.where(count > mean, -np.log10(np.maximum(tail, 1e-300)), 0.0)
    return found


def _windows(x: Tensor) -> Tensor:
    """All windows (P, N, D) of the bytes `x` (N, C, H, W), reduced to `GRID` pixels where they are larger."""
    return F.unfold(reduced(x, GRID), SIDE).permute(2, 0, 1)
