"""The queue between a proposer and an executor: what runs when, alone or beside others, and how often."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from raybd.execution.outcome import Outcome
from raybd.execution.proposers import ListProposer, Proposal, Signal
from raybd.execution.queue import FinishedTrials, TrialQueue
from raybd.trials.config import TrialConfig
from raybd.trials.records import FAILED, FINISHED

CONFIGS = [TrialConfig(seed=seed) for seed in range(4)]


class Recorded(ListProposer):
    """A list that keeps what it is told."""

    def __init__(self, configs: Sequence[TrialConfig]) -> None:
        super().__init__(configs)
        self.told: list[Outcome] = []

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome)


def seed(proposal: Proposal) -> int | Signal:
    return proposal.seed if isinstance(proposal, TrialConfig) else proposal


def end(queue: TrialQueue, number: int, short: bool = False) -> None:
    status = FAILED if short else FINISHED
    queue.tell(Outcome(CONFIGS[number].key, "", status, out_of_memory=short, error="no memory" if short else ""))


def test_who_ran_when_memory_was_short_waits_for_all_others_and_then_runs_alone() -> None:
    """A node's memory runs out beside trials 0 and 1; of a GPU beside 2; and again of 1's node, when it runs alone."""
    queue = TrialQueue(proposer := Recorded(CONFIGS))
    assert [seed(queue.next()) for _ in range(2)] == [0, 1]
    queue.tell_out_of_memory([CONFIGS[0].key, CONFIGS[1].key])
    queue.requeue()
    assert [seed(queue.next()) for _ in range(3)] == [2, 3, Signal.WAIT]
    end(queue, 2, short=True)
    assert proposer.told == []  # nothing is known yet
    assert queue.next() is Signal.WAIT  # trial 3 still runs
    end(queue, 3)
    for number in (0, 1, 2):
        assert seed(queue.next()) == number
        assert queue.next() is Signal.WAIT  # alone
        if number == 1:
            queue.tell_out_of_memory([CONFIGS[1].key])
        else:
            end(queue, number)
    assert queue.next() is Signal.DONE
    assert {o.key: o.status for o in proposer.told} == {c.key: FAILED if c.seed == 1 else FINISHED for c in CONFIGS}
    failed = queue.outcomes[CONFIGS[1].key]
    assert "although no other trial was running" in failed.error
    assert queue.outcomes[CONFIGS[2].key].earlier == "no memory"


def test_out_of_memory_with_nothing_beside_it_is_tried_once_more() -> None:
    queue = TrialQueue(Recorded(CONFIGS[:1]))
    queue.next()
    assert not queue.runs_alone(CONFIGS[0].key)
    end(queue, 0, short=True)
    assert seed(queue.next()) == 0
    assert queue.runs_alone(CONFIGS[0].key)
    end(queue, 0, short=True)
    assert queue.next() is Signal.DONE
    assert queue.outcomes[CONFIGS[0].key].status == FAILED


def test_what_was_in_flight_when_the_executor_broke_down_comes_first_again() -> None:
    queue = TrialQueue(Recorded(CONFIGS))
    assert [seed(queue.next()) for _ in range(2)] == [0, 1]
    end(queue, 1)
    queue.requeue()
    assert [seed(queue.next()) for _ in range(3)] == [0, 2, 3]
    assert (queue.left, len(queue.outcomes)) == (3, 1)


def test_a_key_proposed_twice_runs_once() -> None:
    """While it runs the second waits with the first; once it has ended the second is told at once."""
    queue = TrialQueue(proposer := Recorded([CONFIGS[0], CONFIGS[0], CONFIGS[1], CONFIGS[0]]))
    assert [seed(queue.next()) for _ in range(2)] == [0, 1]
    end(queue, 0)
    end(queue, 1)
    assert queue.next() is Signal.DONE
    assert [o.key for o in proposer.told] == [CONFIGS[i].key for i in (0, 1, 0)]
    assert queue.skipped == 0


def test_what_has_finished_before_is_told_and_not_run() -> None:
    class Two(FinishedTrials):
        def outcome(self, config: TrialConfig) -> Outcome | None:
            return Outcome(config.key, "", FINISHED) if config.seed == 2 else None

    queue = TrialQueue(proposer := Recorded(CONFIGS), Two())
    assert [seed(queue.next()) for _ in range(3)] == [0, 1, 3]
    assert [o.key for o in proposer.told] == [CONFIGS[2].key]
    assert queue.skipped == 1


@pytest.mark.parametrize(
    ("outcome", "retryable"),
    [
        (Outcome("k", "", FINISHED), False),
        (Outcome("k", "", FAILED), True),
        (Outcome("k", "", FAILED, permanent=True), False),
        (Outcome("k", "", FAILED, out_of_memory=True), False),
    ],
)
def test_which_failures_get_another_attempt(outcome: Outcome, retryable: bool) -> None:
    assert outcome.retryable is retryable
    assert replace(outcome, earlier="x").retryable is retryable
