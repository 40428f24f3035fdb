"""The executor on Ray Tune: how it goes on when Tune breaks down or is interrupted, and what travels to workers."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.exceptions import OutOfMemoryError

from raybd.data import load
from raybd.execution import on_ray, tune_run
from raybd.execution.attempt import stopped
from raybd.execution.executor import ExecutorResult
from raybd.execution.object_store import pack_configs, unpack_config
from raybd.execution.on_ray import MAX_RESTARTS, RayExecutor
from raybd.execution.outcome import Outcome
from raybd.execution.progress import Progress
from raybd.execution.proposers import ListProposer
from raybd.execution.queue import TrialQueue
from raybd.execution.ray_cluster import connect
from raybd.execution.ray_watch import RayWatch
from raybd.execution.resources import Resources
from raybd.execution.setup import TrialSetup
from raybd.execution.tune_run import TuneRun
from raybd.tracking.store import Address
from raybd.trials.config import TrialConfig
from raybd.trials.records import FINISHED, SweepFolder
from raybd.types import Data

CONFIGS = [TrialConfig(seed=seed) for seed in range(5)]


def no_op(config: TrialConfig, data: Data, setup: TrialSetup, heartbeat: Callable[[], None]) -> Outcome:
    """A trial that ends at once, and returns what it was given."""
    return Outcome(config.key, config.label, FINISHED, note=json.dumps(config.to_dict()))


def executor(folder: Path) -> RayExecutor:
    setup = TrialSetup("s", SweepFolder.of(folder, "s"), Address("", "", "", ""))
    return RayExecutor(setup, {"digits": load("digits")}, Resources(gpus=0.0, at_once=2), 2, no_op)


@pytest.fixture
def _ray() -> Iterator[None]:
    import ray

    connect("local", 0)
    yield
    ray.shutdown()


class Unlisted(ListProposer):
    """A list whose trials are not known beforehand, as those of a search are not."""

    listed = ()


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("_ray")
def test_every_config_travels_whole_over_several_tune_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_run, "KEYS_PER_RUN", 2)
    for proposer in (ListProposer(CONFIGS), Unlisted(CONFIGS)):
        queue = TrialQueue(proposer)
        ending = executor(tmp_path).run(queue, Progress(queue))
        assert (ending.errors, ending.interrupted, queue.left) == ([], 0, 0)
        assert {TrialConfig.from_dict(json.loads(o.note)) for o in queue.outcomes.values()} == set(CONFIGS)
        assert not (tmp_path / "s" / "tune").exists()


def test_configs_are_found_by_their_keys() -> None:
    packed = pack_configs(CONFIGS)
    for config in CONFIGS:
        assert unpack_config(packed, config.key) == config


# --- Tune runs that end otherwise, played -----------------------------------------------------------------------------


class Unwatched:
    """Stands for the watch on a Ray that no run asks for."""

    def call(self, work: Callable[[], object], stop: Callable[[int], None]) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


def played(monkeypatch: pytest.MonkeyPatch, *ends: tuple[list[int], Exception | None]) -> list[list[int]]:
    """Tune runs that finish the given seeds each and break down with the given error; the seeds that each asked for."""
    asked: list[list[int]] = []

    def fit(run: TuneRun, watch: RayWatch) -> Exception | None:
        finished, error = ends[len(asked)]
        asked.append([])
        while isinstance(point := run.next(), dict):
            asked[-1].append(next(c.seed for c in CONFIGS if c.key == point["key"]))
            run.begin(point["key"])
        for config in CONFIGS:
            if config.seed in finished:
                run.reported[config.key] = Outcome(config.key, "", FINISHED)
                run.end(config.key, "")
        run.next()  # Tune asks again at every step
        return error

    monkeypatch.setattr(TuneRun, "fit", fit)
    monkeypatch.setattr(on_ray.RayWatch, "of_connected", Unwatched)
    return asked


def run(tmp_path: Path) -> tuple[TrialQueue, ExecutorResult]:
    queue = TrialQueue(ListProposer(CONFIGS[:3]))
    return queue, executor(tmp_path).run(queue, Progress(queue))


def test_tune_breaks_down_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = played(monkeypatch, ([0], OSError("disk full")), ([1, 2], None))
    queue, ending = run(tmp_path)
    assert asked == [[0, 1, 2], [1, 2]]
    assert (ending.errors, ending.interrupted) == (["Ray Tune broke down: OSError: disk full"], 0)
    assert (queue.left, len(queue.outcomes)) == (0, 3)


def test_tune_that_breaks_down_at_once_is_not_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = played(monkeypatch, *[([], OSError("disk full"))] * 10)
    queue, ending = run(tmp_path)
    assert len(asked) == len(ending.errors) == MAX_RESTARTS
    assert (queue.left, ending.interrupted) == (3, 0)


def test_an_early_end_without_an_error_is_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, ([0], None))
    queue, ending = run(tmp_path)
    assert (queue.left, ending.interrupted) == (2, signal.SIGINT)


def test_what_ends_unfinished_once_it_is_asked_to_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three trials one finishes all the same, one reports that it was stopped, one is killed by Tune."""

    def fit(run: TuneRun, watch: RayWatch) -> None:
        for config in CONFIGS[:3]:
            run.next()
            run.begin(config.key)
        run.ask_to_end(signal.SIGTERM)
        run.reported[CONFIGS[0].key] = Outcome(CONFIGS[0].key, "", FINISHED)
        run.reported[CONFIGS[1].key] = stopped(CONFIGS[1], "asked to end")
        for config in CONFIGS[:3]:
            run.end(config.key, "its worker died")

    monkeypatch.setattr(TuneRun, "fit", fit)
    monkeypatch.setattr(on_ray.RayWatch, "of_connected", Unwatched)
    queue, ending = run(tmp_path)
    assert (queue.left, ending.interrupted, ending.errors) == (2, signal.SIGTERM, [])
    assert [outcome.key for outcome in queue.outcomes.values()] == [CONFIGS[0].key]


def test_a_worker_that_gets_sigterm_is_no_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []

    def fit(run: TuneRun, watch: RayWatch) -> None:
        for seed in (0, 0, 1, 2):  # the first ends twice
            said.append(run.next())
            run.begin(CONFIGS[seed].key)
            if len(said) > 1:
                run.reported[CONFIGS[seed].key] = Outcome(CONFIGS[seed].key, "", FINISHED)
            run.end(CONFIGS[seed].key, "its worker died: the process receives a SIGTERM.")
        run.next()

    monkeypatch.setattr(TuneRun, "fit", fit)
    monkeypatch.setattr(on_ray.RayWatch, "of_connected", Unwatched)
    queue, _ = run(tmp_path)
    assert (queue.left, {outcome.status for outcome in queue.outcomes.values()}) == (0, {FINISHED})
    assert said[0] == said[1]


def test_what_the_memory_monitor_interrupts_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("fit failed")
    error.__cause__ = OutOfMemoryError("low memory")
    asked = played(monkeypatch, ([0], error), ([1], OSError("again")), ([2], OSError("again")), ([], None))
    queue, ending = run(tmp_path)
    assert asked == [[0, 1, 2], [1], [2], []]  # one at a time
    assert "memory monitor" in ending.errors[0]
    assert all(outcome.finished for outcome in queue.outcomes.values())


def test_tune_pickles_a_run_without_its_data(tmp_path: Path) -> None:
    import cloudpickle

    queue = TrialQueue(ListProposer(CONFIGS))
    e = executor(tmp_path)
    made = TuneRun(queue, Progress(queue), e.setup, e.resources, {}, no_op)
    assert len(cloudpickle.dumps(tune_run.OutcomeCallback(made))) < 2000
