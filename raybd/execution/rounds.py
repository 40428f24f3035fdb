"""RoundsProposer: searches side by side, each of which asks for its next trials when all of its last have ended."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from raybd.execution.outcome import Outcome
from raybd.execution.proposers import Proposal, Proposer, Signal
from raybd.trials.config import TrialConfig

Rounds = Iterator[Sequence[TrialConfig]]


class RoundsProposer(Proposer):
    """The trials of several searches. Each is an iterator of rounds, and is asked for the next when one has ended."""

    needs_metrics = True

    def __init__(self, searches: Iterable[Rounds], ended: Callable[[TrialConfig, Outcome], None]) -> None:
        """`ended` gets every outcome, before a search that waits for it goes on."""
        self._ended = ended
        self._waiting: list[tuple[Rounds, set[str]]] = [(search, set()) for search in searches]
        self._ready: deque[TrialConfig] = deque()
        self._running: dict[str, TrialConfig] = {}
        self.asked: dict[str, TrialConfig] = {}  # every trial of every search, by its key

    def next(self) -> Proposal:
        """The next trial of a round; of the next round where one has ended."""
        if not self._ready:
            self._advance()
        if self._ready:
            config = self._ready.popleft()
            self._running[config.key] = config
            return config
        return Signal.WAIT if self._running else Signal.DONE

    def tell(self, outcome: Outcome) -> None:
        """Note that a trial has ended, whichever searches wait for it."""
        config = self._running.pop(outcome.key, None)
        if config is None:  # two searches asked for it, and it has been told
            return
        self._ended(config, outcome)
        for _, keys in self._waiting:
            keys.discard(outcome.key)

    @property
    def remaining(self) -> int:
        """Trials of the present rounds that have not been proposed; how many come after is not known."""
        return len(self._ready)

    @property
    def listed(self) -> Sequence[TrialConfig]:
        """Those."""
        return tuple(self._ready)

    def _advance(self) -> None:
        """The next round of every search that waits for nothing."""
        for search, keys in list(self._waiting):
            while not keys:
                configs = next(search, None)
                if configs is None:
                    self._waiting = [pair for pair in self._waiting if pair[0] is not search]
                    break
                keys.update(config.key for config in configs)
                waiting = {config.key for config in self._ready} | self._running.keys()
                self._ready.extend(config for config in configs if config.key not in waiting)
                self.asked |= {config.key: config for config in configs}
