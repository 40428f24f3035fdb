"""What every proposer of one's own promises: `check_proposer(MyProposer())` in a test of your own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from raybd.attacks import NoAttack
from raybd.contracts.promises import Check, promise
from raybd.execution.outcome import Outcome
from raybd.execution.proposers import PROPOSERS, GridProposer, Signal
from raybd.plugins import build, describe, parse, settings_of, spec
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, FINISHED

GRID = tuple(
    TrialConfig(poison_rate=rate, seed=seed, **({"attack": NoAttack()} if rate == 0 else {}))  # type: ignore[arg-type]
    for rate in (0.0, 0.01, 0.1)
    for seed in (0, 1)
)
METRICS = {"accuracy/clean": 0.9, "attack_success": 0.5, "accuracy/robust": 0.4}
MOST = 10 * len(GRID)  # proposals after which a proposer is given up


@dataclass(frozen=True)
class Case:
    """One proposer, made anew for every check."""

    make: Callable[[], GridProposer]

    def begun(self) -> GridProposer:
        """The proposer, with the trials of a small sweep."""
        proposer = self.make()
        proposer.begin(GRID)
        return proposer


def check_proposer(proposer: GridProposer) -> None:
    """Everything that an executor relies on.

    Raises:
        BrokenPromiseError: the proposer breaks a promise.
    """
    case = Case(lambda: replace(proposer))
    for check in CHECKS.values():
        check(case)


def check_settings(case: Case) -> None:
    """Settings go through a record and a command line, and come back equal."""
    first = case.make()
    built = build("proposer", PROPOSERS, spec(PROPOSERS, first))
    read = parse("proposer", PROPOSERS, describe(PROPOSERS, first))
    promise(settings_of(built) == settings_of(read) == settings_of(first), f"settings of {first} change on the way")


def check_one_by_one(case: Case) -> None:
    """It proposes trials of the sweep alone and ends, where each has ended before the next; finished or failed."""
    for status in (FINISHED, FAILED):
        proposed = run(case.begun(), status, at_once=1)
        promise(bool(proposed), "it proposes no trial")


def check_in_parallel(case: Case) -> None:
    """It ends too where trials end late, and waits only while one is running."""
    run(case.begun(), FINISHED, at_once=3)


def run(proposer: GridProposer, status: str, at_once: int) -> list[TrialConfig]:
    """The trials that `proposer` proposed, told with this status when `at_once` of them are in flight, or it waits."""
    flying: list[TrialConfig] = []
    proposed: list[TrialConfig] = []
    while (proposal := proposer.next()) is not Signal.DONE or flying:
        promise(len(proposed) <= MOST, f"it goes on after {MOST} proposals")
        if isinstance(proposal, TrialConfig):
            promise(proposal in GRID, f"it proposes {proposal.label}, which is no trial of the sweep")
            flying.append(proposal)
            proposed.append(proposal)
        promise(bool(flying), f"it returns {proposal!r} while no trial is running")
        if len(flying) >= at_once or not isinstance(proposal, TrialConfig):
            done = flying.pop(0)
            proposer.tell(Outcome(done.key, done.label, status, metrics=METRICS if status == FINISHED else {}))
    return proposed


CHECKS: dict[str, Check[Case]] = {
    "settings": check_settings,
    "one by one": check_one_by_one,
    "in parallel": check_in_parallel,
}
