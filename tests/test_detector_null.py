"""Detectors tell no clean image from another: on a clean network two halves of them have an AUROC of one half."""

import numpy as np
import pytest

from raybd.metrics.detection import Beatrix, IbdPsc, NoiseVotes, ScaleUp, Strip, Ted
from raybd.metrics.detection.inputs import InputDetector
from raybd.utils.statistics import auroc
from tests.smoothing_cases import trained as evidence

HALF = 150


@pytest.mark.parametrize(
    "detector",
    [Beatrix(), IbdPsc(), NoiseVotes(draws=16), ScaleUp(), Strip(), Ted()],
    ids=lambda detector: detector.name,
)
def test_two_halves_of_clean_images_are_alike(detector: InputDetector) -> None:
    """Mann-Whitney: a standard error of sqrt((n + m + 1) / (12 n m)) at most, 0.033 here; a score of one half's place
    in the list, which depends on nothing else, would be 1."""
    context = evidence(0.0, 0)
    order = np.random.default_rng(0).permutation(len(context.data.test))[: 2 * HALF].tolist()
    x = context.data.test.x[order].float() / 255
    scores = detector.scores(context.model, x, order, context)
    error = np.sqrt((2 * HALF + 1) / (12 * HALF**2))
    assert abs(auroc(scores[:HALF], scores[HALF:]) - 0.5) < 4 * error
    assert len(np.unique(scores)) > 1
