"""An audit: images that are suspected, ranked by suspicion, with a verdict. No truth is known, so none is claimed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from raybd.auditing.detectors import DECISIVE, REASONS
from raybd.auditing.features import Floats
from raybd.auditing.ranking import Mask
from raybd.data.image_names import NamedImages
from raybd.utils.html import facts, table

UNKNOWN = "truth unknown: no precision, recall or attack success is claimed"
TELLING = 2.0  # evidence from which a detector is among an image's reasons
LISTED = 20  # images in a notebook's table


@dataclass(frozen=True)
class Planted:
    """What looks planted in one class."""

    label: int
    name: str
    count: int
    by: tuple[str, ...]  # the detectors that found it


@dataclass(frozen=True)
class AuditVerdict:
    """Whether anything looks planted, against which null and at which level of false alarm."""

    planted: tuple[Planted, ...]
    level: float
    null: str

    @property
    def found(self) -> bool:
        """Whether anything looks planted."""
        return bool(self.planted)

    def __str__(self) -> str:
        groups = [f"{one.count} images look planted, in class {one.name} ({', '.join(one.by)})" for one in self.planted]
        return f"{'; '.join(groups) or 'nothing found'}, at a false-alarm level of {self.level:g}"


@dataclass(frozen=True)
class Audit:
    """Suspected images in the order of their suspicion."""

    named: NamedImages
    evidence: Mapping[str, Floats]  # (N,) of each detector, -log10 of how many ordinary images score as high
    suspicion: Floats  # (N,)
    expected: Floats  # (N, K) probability of each label by the content
    found: Mask  # (N,) images that look planted
    left_out: Mask  # (N,) images that the proposed clean subset is without
    verdict: AuditVerdict
    truth: Mapping[str, float] = field(default_factory=dict)  # against an answer key, where one was given

    @property
    def order(self) -> np.ndarray:
        """Indices (N,), the most suspicious first."""
        return np.argsort(-self.suspicion, kind="stable")

    def to_frame(self) -> pd.DataFrame:
        """A row for each image, the most suspicious first."""
        order, classes = self.order, np.array(self.named.classes)
        y = self.named.images.y.numpy()
        columns = {
            "rank": np.arange(1, len(order) + 1),
            "image": np.array([printable(name) for name in self.named.names])[order],
            "label": y[order],
            "class": classes[y[order]],
            "looks_like": classes[self.expected[order].argmax(1)],
            "suspicion": self.suspicion[order].round(3),
            "planted": self.found[order],
            "kept": ~self.left_out[order],
            "reasons": [self.reasons(i) for i in order],
        }
        return pd.DataFrame(columns | {name: values[order].round(3) for name, values in self.evidence.items()})

    def reasons(self, i: int) -> str:
        """What the detectors say of image `i`, the strongest first; empty where none is above `TELLING`."""
        said = sorted(((values[i], name) for name, values in self.evidence.items()), reverse=True)
        return "; ".join(f"{name} {value:.1f}: {REASONS[name]}" for value, name in said if value >= TELLING)

    @property
    def kept_names(self) -> list[str]:
        """The names of the proposed clean subset, in the order of the source."""
        return [printable(name) for name, out in zip(self.named.names, self.left_out, strict=True) if not out]

    def facts(self) -> dict[str, object]:
        """What is said of the whole set."""
        normal = {f"normal {name}": f"{self.normal(name):.2f}" for name in DECISIVE}
        said = {"images": len(self.suspicion), "verdict": str(self.verdict), "null": self.verdict.null}
        kept = f"{len(self.kept_names)} of {len(self.suspicion)} images"
        numbers = {name: f"{value:.3f}" for name, value in self.truth.items()}
        return said | {"clean subset": kept} | normal | (numbers or {"truth": UNKNOWN})

    def normal(self, name: str) -> float:
        """The evidence of a detector that the highest one in a hundred of the images that stay has."""
        return float(np.quantile(self.evidence[name][~self.left_out], 0.99))

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.facts().items())

    def _repr_html_(self) -> str:
        """Facts and the first suspects, for a notebook."""
        shown = self.to_frame().head(LISTED)[["rank", "image", "class", "looks_like", "suspicion", "reasons"]]
        rows: list[dict[str, object]] = [{str(k): v for k, v in row.items()} for row in shown.to_dict("records")]
        return facts(self.facts().items()) + table(rows)


def printable(name: str) -> str:
    """The `name` of a file with the bytes that are not UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()
