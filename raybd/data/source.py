"""The base class of data sets of one's own: a subclass hands over its arrays, its fields are its settings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.data.npz import raw_data
from raybd.data.reader import RawData
from raybd.data.target import MEMORY, Target
from raybd.utils.cache import content_hash
from raybd.utils.source_files import source_hash


@dataclass(frozen=True, kw_only=True)
class DataSource(ABC):
    """A data set of one's own. It is read once and kept, until its settings, its code or its `version` change."""

    @abstractmethod
    def arrays(self, root: Path) -> Mapping[str, Any]:
        """`x_train`, `x_test` uint8, `y_train`, `y_test` integers from 0, and `classes` if wanted, as in npz:PATH.

        `root` is the data root, in which its files may lie. The same settings give the same arrays.
        """

    def version(self, root: Path) -> str:
        """What changes when the files under `root` that the arrays come from do; "" where there are none."""
        return ""

    def stamp(self, where: Path) -> str:
        """A hash of its settings, its code and its version."""
        return content_hash(repr(self), source_hash(type(self).__module__), self.version(where))

    def read(self, where: Path, target: Target = MEMORY) -> RawData:
        """Its arrays, checked.

        Raises:
            InputError: with everything that is wrong with them.
        """
        return raw_data(type(self).__name__, dict(self.arrays(where)), target)
