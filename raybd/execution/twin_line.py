"""TwinLine: trials that wait until another has trained the clean twin that they share, so that they hold no GPU."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from raybd.trials.config import TrialConfig

TwinOf = Callable[[TrialConfig], str]


def no_twin(config: TrialConfig) -> str:
    """The clean twin that `config` waits for, where trials share none."""
    return ""


def twins_first(configs: Sequence[TrialConfig], twin_of: TwinOf) -> list[TrialConfig]:
    """`configs` in their order, but first, of each clean twin, the first trial at rate 0: it trains the twin."""
    leaders: dict[str, TrialConfig] = {}
    for config in configs:
        if not config.poison_rate and (twin := twin_of(config)):
            leaders.setdefault(twin, config)
    first = {config.key for config in leaders.values()}
    return [*leaders.values(), *(config for config in configs if config.key not in first)]


class TwinLine:
    """The trials that wait for a clean twin.

    A trial at rate 0 that runs leads all others with its twin. They are ready once the twin is on disk, or once the
    leader has ended in whatever way: the next at rate 0 leads then, and nobody waits for a trial that does not run.
    """

    def __init__(self, twin_of: TwinOf = no_twin) -> None:
        """`twin_of`: the key of a trial's clean twin; "" where it needs none, or where the twin is on disk."""
        self.ready: deque[TrialConfig] = deque()
        self._twin_of = twin_of
        self._twins: dict[str, str] = {}  # key of a leader -> its twin
        self._waiting: dict[str, list[TrialConfig]] = {}  # twin -> those behind its leader

    def holds(self, config: TrialConfig) -> bool:
        """Whether `config` must wait, in which case it is kept here; else it may run."""
        twin = self._twin_of(config)
        if twin in self._waiting:
            self._waiting[twin].append(config)
            return True
        if twin and not config.poison_rate:
            self._twins[config.key] = twin
            self._waiting[twin] = []
        return False

    def look(self) -> None:
        """Release those whose twin is on disk."""
        for key, twin in list(self._twins.items()):
            waiting = self._waiting[twin]
            if waiting and not self._twin_of(waiting[0]):
                self.ended(key)

    def ended(self, key: str) -> None:
        """Release those behind the trial `key`, if it leads any."""
        if (twin := self._twins.pop(key, None)) is not None:
            self.ready.extend(self._waiting.pop(twin))

    def end_all(self) -> None:
        """Release everybody."""
        for key in list(self._twins):
            self.ended(key)

    @property
    def trials(self) -> list[TrialConfig]:
        """Those that wait, and those that are ready."""
        return [*self.ready, *chain.from_iterable(self._waiting.values())]
