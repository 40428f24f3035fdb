"""scikit-learn's handwritten digits: 8x8 grey images that come with the package."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from raybd.data.reader import RawData, validated
from raybd.data.target import MEMORY, Target


@dataclass(frozen=True)
class Digits:
    """1,297 training and 500 test images (1, 8, 8); the 17 grey levels 0-16 are spread over 0-255."""

    def stamp(self, where: Path) -> str:
        """Of scikit-learn, which takes longer to import than the images to read."""
        return f"scikit-learn {version('scikit-learn')}"

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """The images in a split that is stratified and always the same; `where` is not looked at."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        splits = train_test_split(x, bunch.target, test_size=500, random_state=0, stratify=bunch.target)
        return validated("digits", dict(zip(("x_train", "x_test", "y_train", "y_test"), splits, strict=True)))
