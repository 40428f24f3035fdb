"""The audit of a data set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raybd.auditing.answer_key import compare, read_answer_key
from raybd.auditing.detectors import DECISIVE, Scores, detect
from raybd.auditing.features import AuditFeatures, Floats, Heartbeat, learn_features
from raybd.auditing.ranking import Mask, doubtful, evidence_of, planted, suspicion_of
from raybd.auditing.settings import AuditSettings
from raybd.auditing.suspects import Audit, AuditVerdict, Planted
from raybd.data.image_names import NamedImages, named_images
from raybd.errors import InputError
from raybd.plugins import unknown
from raybd.types import Images
from raybd.utils.constraints import violations

FEWEST_IMAGES = 100  # below, no tail can be told
OWN_NULL = "the suspected set without its suspects (no clean images were given)"


def audit(
    data: str | NamedImages,
    *,
    clean: str | NamedImages | None = None,
    truth: str | Path | Sequence[str | int] | None = None,
    data_root: str | Path | None = None,
    resize: int = 0,
    heartbeat: Heartbeat = lambda: None,
    **settings: Any,
) -> Audit:
    """Rank the images of `data` by how much they look planted, train on nothing that is not there, claim no truth.

    Args:
        data: A data set as sweeps name it (`folder:PATH`, `npz:PATH`, `mnist[0,1;2000]`), or images with names.
        clean: Images of the same classes that are known to be clean: what is normal is measured on them.
        truth: An answer key, if one was planted: a file with a name or number a line, or the names or numbers.
        data_root: Folder with the data sets.
        resize: Side to which images are resized, in pixels; 0: as they are.
        heartbeat: Called now and then.
        settings: Those of `AuditSettings`.

    Raises:
        InputError: with what is wrong of data, clean images, answer key or settings, before anything is trained.
    """
    chosen = _checked_settings(settings)
    named, known = (_named(one, data_root, resize) if one is not None else None for one in (data, clean))
    assert named is not None
    _check(named, known)
    key = None if truth is None else read_answer_key(truth, named)
    classes = len(named.classes)
    features = learn_features(named.images, classes, chosen, heartbeat)
    normal = None if known is None else _scores_of_clean(known.images, classes, chosen, heartbeat)
    scores = detect(features, None if known is None else known.images)
    result = _judged(named, features, evidence_of(scores, normal), chosen, known)
    return result if key is None else replace(result, truth=compare(result, key))


def _judged(
    named: NamedImages,
    features: AuditFeatures,
    evidence: dict[str, Floats],
    settings: AuditSettings,
    clean: NamedImages | None,
) -> Audit:
    y, suspicion = named.images.y.numpy(), suspicion_of(evidence)
    found = planted(evidence, y, settings.false_alarm)
    groups = tuple(_group(int(label), named, evidence, found) for label in np.unique(y[found]))
    null = OWN_NULL if clean is None else f"{len(clean.images)} clean images of {clean.source}"
    return Audit(
        named=named,
        evidence=evidence,
        suspicion=suspicion,
        expected=features.expected.numpy(),
        found=found,
        left_out=doubtful(found, suspicion, y),
        verdict=AuditVerdict(groups, settings.false_alarm, null),
    )


def _group(label: int, named: NamedImages, evidence: dict[str, Floats], found: Mask) -> Planted:
    here = found & (named.images.y.numpy() == label)
    strongest = np.argmax([evidence[name][here] for name in DECISIVE], axis=0)
    by = tuple(name for place, name in enumerate(DECISIVE) if (strongest == place).any())
    return Planted(label, named.classes[label], int(here.sum()), by)


def _scores_of_clean(images: Images, classes: int, settings: AuditSettings, heartbeat: Heartbeat) -> dict[str, Scores]:
    """What the detectors say of clean images that a network of the same kind was trained on."""
    features = learn_features(images, classes, settings, heartbeat)
    return dict(detect(features))


def _checked_settings(settings: dict[str, Any]) -> AuditSettings:
    if bad := unknown("setting of an audit", settings, AuditSettings.__dataclass_fields__):
        raise InputError(bad)
    chosen = AuditSettings(**settings)
    if problems := violations(chosen):
        raise InputError(problems)
    return chosen


def _named(source: str | NamedImages, root: str | Path | None, resize: int) -> NamedImages:
    return source if isinstance(source, NamedImages) else named_images(source, root, resize)


def _check(named: NamedImages, clean: NamedImages | None) -> None:
    """Raise InputError with every reason why these images cannot be audited."""
    problems = []
    for one in (named,) if clean is None else (named, clean):
        counts = torch.bincount(one.images.y, minlength=len(one.classes))
        if len(one.images) < FEWEST_IMAGES:
            problems.append(f"{one.source} has {len(one.images)} images: an audit needs {FEWEST_IMAGES} or more")
        if empty := [one.classes[i] for i in (counts < 2).nonzero()[:, 0].tolist()]:
            problems.append(f"{one.source}: every class needs 2 images or more, not so {', '.join(empty)}")
    if clean is not None and clean.classes != named.classes:
        problems.append(f"the clean images have the classes {', '.join(clean.classes)}, not {', '.join(named.classes)}")
    if clean is not None and clean.images.shape != named.images.shape:
        problems.append(f"the clean images are {clean.images.shape}, not {named.images.shape} (--resize)")
    if problems:
        raise InputError(problems)
