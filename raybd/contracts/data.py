"""What every data set of one's own promises: `check_data(MyData())` in a test of your own."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from raybd.contracts.promises import Check, promise
from raybd.data import OWN, DataSource, data_root
from raybd.data.describe import describe as describe_data
from raybd.data.reader import RawData
from raybd.plugins import build, describe, parse, spec


@dataclass(frozen=True)
class Case:
    """One data set."""

    source: DataSource
    root: Path = field(default_factory=data_root)

    @cached_property
    def raw(self) -> RawData:
        """Its images, as they are read."""
        return self.source.read(self.root)


def check_data(source: DataSource) -> None:
    """Everything that `raybd.data.load` relies on.

    Raises:
        BrokenPromiseError: the data set breaks a promise.
    """
    case = Case(source)
    for check in CHECKS.values():
        check(case)


def check_settings(case: Case) -> None:
    """Settings go through a command line, and come back equal."""
    built = build("data set", OWN, spec(OWN, case.source))
    promise(built == case.source, f"{case.source} comes back as {built}")
    text = describe(OWN, case.source)
    promise(parse("data set", OWN, text) == case.source, f"{text} is read as another data set")


def check_arrays(case: Case) -> None:
    """Images are bytes of one shape, labels are 0 to C - 1, every class has training images, and a name if any has."""
    promise(len(case.raw.train) > 0, "there are no training images")


def check_again(case: Case) -> None:
    """Read again, it has the same images and the same version."""
    again = case.source.read(case.root)
    first, second = (describe_data("made", raw).fingerprint for raw in (case.raw, again))
    promise(first == second, "read again, it has other images: draw them from a fixed seed")
    promise(case.source.stamp(case.root) == case.source.stamp(case.root), "its version changes by itself")


CHECKS: dict[str, Check[Case]] = {"settings": check_settings, "arrays": check_arrays, "again": check_again}
