"""How the detectors' scores become one order of suspicion, and what of it is called planted.

A detector's score becomes evidence, -log10 of how often an ordinary image scores as high (`null.py`): all detectors
speak in one unit. The suspicion of an image is the highest evidence of a decisive detector, plus a hundredth of the
mean evidence of the others, which orders what is equal. The detectors' average would hide what one alone can see.

Two rules say what looks planted, each at half of the level `false_alarm`:

- alone: 10^-evidence <= false_alarm / (2 D N), D being the number of decisive detectors and N that of the images
  (Bonferroni), in a class with `FEWEST` such images or more, for the tails are extrapolated;
- a crowd: k of the n images of a class have a transplant's evidence of t or more, where n 10^-t are to be expected.
  P(Poisson(10 n 10^-t) >= k) <= false_alarm / (2 K T), over K classes and T values of t. The mean is ten times what is
  expected, for images of a class resemble each other. Images that share a window have one score: they are no crowd.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raybd.auditing.detectors import DECISIVE, Scores
from raybd.auditing.features import Floats
from raybd.auditing.null import CLEAN, SUSPECTED, Null
from raybd.auditing.shared_windows import surprise

Mask = npt.NDArray[np.bool_]
FEWEST = 3  # planted images of a class
INDEPENDENT = "transplant"  # the decisive detector that looks at each image by itself
STEPS = (2.5, 3.0, 3.5, 4.0)  # t
RESEMBLANCE = 10.0
DOUBTFUL = 2.0  # suspicion from which images of a planted class leave the clean subset: one ordinary image in a hundred
TIES = 0.01  # weight of the other detectors
STRONGEST = 300.0  # evidence at most


def evidence_of(found: Mapping[str, Scores], clean: Mapping[str, Scores] | None) -> dict[str, Floats]:
    """The evidence (N,) of each detector, by the null that there is: clean images, its own, the set's lower part."""
    evidence = {}
    for name, result in found.items():
        if clean is not None and name in clean:
            null = Null.fit(clean[name].scores, CLEAN)
        elif result.null is not None:
            null = Null.fit(result.null, CLEAN)
        else:
            null = Null.fit(result.scores, SUSPECTED)
        evidence[name] = null.evidence(result.scores).clip(0, STRONGEST)
    return evidence


def suspicion_of(evidence: Mapping[str, Floats]) -> Floats:
    """(N,): the highest decisive evidence, plus a little of the others'."""
    others = [values.clip(0, 10) for name, values in evidence.items() if name not in DECISIVE]
    decisive: Floats = np.max([evidence[name] for name in DECISIVE], axis=0)
    suspicion: Floats = decisive + TIES * np.mean(others, axis=0)
    return suspicion


def planted(evidence: Mapping[str, Floats], y: npt.NDArray[np.int64], level: float) -> Mask:
    """(N,): what looks planted at the `level`, alone or in a crowd."""
    strongest = np.max([evidence[name] for name in DECISIVE], axis=0)
    alone = strongest >= np.log10(2 * len(DECISIVE) * len(y) / level)
    counts = np.bincount(y[alone], minlength=int(y.max()) + 1)
    either: Mask = (alone & (counts >= FEWEST)[y]) | crowds(evidence[INDEPENDENT], y, level / 2)
    return either


def crowds(evidence: Floats, y: npt.NDArray[np.int64], level: float) -> Mask:
    """(N,): the images of each class with `evidence` (N,) above the lowest of `STEPS` that too many of them reach."""
    classes, sizes = np.unique(y, return_counts=True)
    found = np.zeros(len(y), bool)
    for label, size in zip(classes, sizes, strict=True):
        for step in STEPS:
            high = (y == label) & (evidence >= step)
            mean = np.array([RESEMBLANCE * size * 10.0**-step])
            if surprise(np.array([high.sum()]), mean)[0] >= np.log10(len(classes) * len(STEPS) / level):
                found |= high
                break
    return found


def doubtful(found: Mask, suspicion: Floats, y: npt.NDArray[np.int64]) -> Mask:
    """(N,): what the proposed clean subset leaves out: the planted images, and in their classes all of `DOUBTFUL`."""
    bad = np.isin(y, np.unique(y[found])) & (suspicion >= DOUBTFUL)
    return found | bad
