"""The errors a user meets. Imports nothing of raybd."""

import re
import traceback
from collections.abc import Iterable


def public(text: str) -> str:
    """`text` as it may be printed and kept: names and passwords in its URIs (http://NAME:PASSWORD@HOST) are ***."""
    printable = text.encode(errors="backslashreplace").decode()  # file names need not be UTF-8
    return re.sub(r"(?<=://)[^/\s]*@", "***@", printable)


class InputError(ValueError):
    """What the user asked for cannot be done; raised before any work, with every problem found at once.

    The problems carry no passwords of URIs.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [public(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        """Survive the way back from a worker, which pickles errors."""
        return type(self), (self.problems,)


def dependency_warning(warning: Warning) -> str:
    """Which library gave a warning that PYTHONWARNINGS (or -W) has made an error, and the remedy."""
    files = [frame.filename for frame in traceback.extract_tb(warning.__traceback__)]
    packages = [found.group(1) for file in files if (found := re.search(r"site-packages[/\\](\w+)", file))]
    package = packages[-1] if packages else "a library"
    return (
        f"{package} warns ({type(warning).__name__}: {warning}), which PYTHONWARNINGS or -W makes an error: "
        "unset it, or use PYTHONWARNINGS=default"
    )


class NoDataError(InputError):
    """A known data set is not on this machine; all else may be right."""


class PoisoningError(ValueError):
    """A poisoned set is not what was asked for; raised before any training."""


class DivergedError(RuntimeError):
    """A training that led nowhere: a loss, or what the network makes of an image, is no number."""


class ScriptError(RuntimeError):
    """A user's own training failed, and would fail again: its command, its function, or what they predict."""


class ScriptKilledError(RuntimeError):
    """A signal ended a user's command, for instance since memory ran out: another attempt may succeed."""


class LostRayError(RuntimeError):
    """The Ray that a sweep ran on has gone away; what has finished is kept."""


class WarnedError(Exception):
    """A trial ends early because its early warning is sure of its verdict: no failure."""

    def __init__(self, probability: float, epoch: int, epochs: int) -> None:
        self.probability = probability  # that a backdoor takes hold
        said = f"a backdoor takes hold with probability {probability:.2f}"
        super().__init__(f"stopped after epoch {epoch} of {epochs} on its early warning: {said}")


class EndRequestedError(BaseException):
    """A trial ends early because it was asked to: no failure, hence no Exception."""
