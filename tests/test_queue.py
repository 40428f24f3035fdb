"""The queue between a proposer and an executor: what runs when, alone or beside others, and how often."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from raybd.attacks import BadNets
from raybd.execution.outcome import Outcome
from raybd.execution.proposers import ListProposer, Proposal, Signal
from raybd.execution.queue import FinishedTrials, TrialQueue
from raybd.execution.twin_line import twins_first
from raybd.metrics.stealthiness import Stealthiness
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import FAILED, FINISHED
from raybd.trials.twins import awaited_twin, twin_of

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


def made_sweep() -> list[TrialConfig]:
    """Two seeds of three attacks at rate 0 and at one with poison, which a metric compares with the twin."""
    measured = TrialConfig(metrics=(Stealthiness(),))
    return [
        replace(measured, attack=attack, poison_rate=rate, seed=seed)
        for attack in (BadNets(), BadNets(target=1), BadNets(target=2))
        for rate in (0.0, 0.1)
        for seed in range(2)
    ]


class Twins:
    """Twins by their keys, as if on a disk."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    def __call__(self, config: TrialConfig) -> str:
        return "" if (twin := twin_of(config).key) in self.there else twin


def handed_out(queue: TrialQueue) -> list[TrialConfig]:
    """All that the queue hands out until it says to wait."""
    found = []
    while isinstance(proposal := queue.next(), TrialConfig):
        found.append(proposal)
    return found


def test_a_trial_waits_in_the_queue_for_a_twin_that_another_trains() -> None:
    configs, twins = made_sweep(), Twins()
    queue = TrialQueue(ListProposer(twins_first(configs, twins)), twin_of=twins)
    first = handed_out(queue)
    assert [(config.poison_rate, config.seed) for config in first] == [(0, 0), (0, 1)]
    assert queue.left == len(queue.listed) + 2 == len(configs)
    twins.there.add(twin_of(first[0]).key)  # while its trial is still measured
    assert {config.seed for config in handed_out(queue)} == {0}
    assert len(queue.in_flight) == 7


@pytest.mark.parametrize("ending", ["finished", "failed", "out of memory", "broken down"])
def test_nobody_waits_for_a_twin_that_nobody_trains(ending: str) -> None:
    """The next at rate 0 trains it, and all end, however the first ended."""
    configs, twins = made_sweep(), Twins()
    queue = TrialQueue(ListProposer(twins_first(configs, twins)), twin_of=twins)
    first = handed_out(queue)
    if ending == "broken down":
        queue.requeue()
    for config in first * (ending != "broken down"):
        short = ending == "out of memory"
        status = FINISHED if ending == "finished" else FAILED
        twins.there |= {twin_of(config).key} if ending == "finished" else set()
        queue.tell(Outcome(config.key, "", status, out_of_memory=short))
    while queue.left:
        running = handed_out(queue)
        assert running, "a dead-lock"
        for config in running:
            queue.tell(Outcome(config.key, "", FINISHED))
            twins.there.add(twin_of(config).key)
    assert queue.next() is Signal.DONE
    assert len(queue.outcomes) == len(configs)


def test_who_shares_no_twin_waits_for_nobody(tmp_path: Path) -> None:
    plain = TrialConfig(poison_rate=0.1)
    clean = replace(plain, poison_rate=0.0)
    folder = tmp_path / twin_of(clean).key
    assert awaited_twin(plain, tmp_path) == ""  # nothing compares it with its twin
    assert awaited_twin(replace(clean, model=ModelConfig(name="svm", C=1.0)), tmp_path) == ""
    assert awaited_twin(clean, tmp_path) == awaited_twin(made_sweep()[2], tmp_path) == folder.name
    folder.mkdir()
    (folder / "training.pt").touch()
    assert awaited_twin(clean, tmp_path) == ""
