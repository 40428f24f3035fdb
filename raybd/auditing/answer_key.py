"""Answer keys: which images somebody planted, and how well an audit ranks them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from raybd.auditing.ranking import Mask
from raybd.auditing.suspects import Audit
from raybd.data.image_names import NamedImages
from raybd.data.reader import shorten
from raybd.defences.base import FLAGGED, SUSPICION
from raybd.defences.comparison import compare_with_truth
from raybd.errors import InputError
from raybd.types import POISON
from raybd.utils.files import read_content

FIRST = 1.5  # times the planted images: as many of the first suspicions are looked at


def read_answer_key(truth: str | Path | Sequence[str | int], named: NamedImages) -> Mask:
    """(N,): the images of `named` that the key names, by file name or number.

    Raises:
        InputError: it names nothing, or images that are not there.
    """
    if isinstance(truth, str | Path):
        text = read_content(truth, "answer key").decode(errors="surrogateescape")
        wanted = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        wanted = [str(one) for one in truth]
    places = {name: i for i, name in enumerate(named.names)}
    if missing := [name for name in wanted if name not in places]:
        raise InputError(
            f"the answer key names {len(missing)} images that {named.source} has not: {shorten(missing)} "
            f"(names there: {shorten(named.names, most=3)})"
        )
    if not wanted or len(set(wanted)) == len(named.names):
        raise InputError("the answer key must name some of the images, and not all")
    key = np.zeros(len(named.names), bool)
    key[[places[name] for name in wanted]] = True
    return key


def compare(result: Audit, key: Mask) -> dict[str, float]:
    """Precision and recall of what is left out of the clean subset, AUROC of the suspicion, and the share of the
    planted images among the first 1.5 n suspicions, n being their number."""
    findings = {SUSPICION: torch.from_numpy(result.suspicion), FLAGGED: torch.from_numpy(result.left_out)}
    numbers = compare_with_truth(findings, torch.from_numpy(key).to(torch.uint8) * POISON)
    first = result.order[: round(FIRST * key.sum())]
    return numbers | {"among_first": float(key[first].sum() / key.sum())}
