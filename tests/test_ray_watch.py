"""RayWatch: the loss of Ray and signals are noticed while a thread works."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raybd.errors import LostRayError
from raybd.execution import ray_watch
from raybd.execution.ray_watch import RayWatch

NODES = [{"NodeID": "here", "Alive": True}, {"NodeID": "there", "Alive": False}]
FOREVER = threading.Event()


def never() -> list[dict[str, Any]]:
    FOREVER.wait()
    raise AssertionError


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_watch, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(ray_watch, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(ray_watch, "SILENT_SECONDS", 0.4)


@pytest.fixture
def watch() -> Iterator[RayWatch]:
    made = RayWatch("h:1", "here", lambda: NODES)
    yield made
    made.close()


def test_work_is_done_in_a_thread_and_its_value_or_error_comes_back(watch: RayWatch) -> None:
    assert watch.call(lambda: threading.current_thread() is threading.main_thread(), print) is False
    assert watch.call(lambda: time.sleep(1.0) or 3, print) == 3  # longer than the silence that is allowed
    with pytest.raises(ZeroDivisionError):
        watch.call(lambda: 1 // 0, print)
    with pytest.raises(SystemExit):  # Ray's own way out
        watch.call(lambda: exit(0), print)


def test_a_head_that_says_nothing_has_gone_away() -> None:
    start = time.monotonic()
    with pytest.raises(LostRayError, match="the Ray at h:1 has gone away: no answer for 0.4 s"):
        RayWatch("h:1", "here", never).call(FOREVER.wait, print)
    assert 0.4 < time.monotonic() - start < 5


def test_a_head_that_only_raises_has_gone_away_and_one_that_recovers_has_not() -> None:
    answers = iter([*[OSError("cut off")] * 5, *[NODES] * 1000])

    def ask() -> list[dict[str, Any]]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    watch = RayWatch("h:1", "here", ask)
    assert watch.call(lambda: time.sleep(0.8), print) is None
    watch.close()

    def fail() -> list[dict[str, Any]]:
        raise OSError("cut off")

    with pytest.raises(LostRayError, match="no answer"):
        RayWatch("h:1", "here", fail).call(FOREVER.wait, print)


@pytest.mark.parametrize("nodes", [[], [{"NodeID": "here", "Alive": False}], [{"NodeID": "there", "Alive": True}]])
def test_a_node_that_died_is_a_ray_that_has_gone_away(nodes: list[dict[str, Any]]) -> None:
    with pytest.raises(LostRayError, match="its node on this machine has died"):
        RayWatch("h:1", "here", lambda: nodes).call(FOREVER.wait, print)


def test_a_raylet_that_has_ended_is_noticed_although_the_head_still_calls_its_node_alive() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as raylet:
        watch = RayWatch("h:1", "here", lambda: NODES, raylet.getsockname())
        assert watch.call(lambda: time.sleep(0.3) or 3, print) == 3
    with pytest.raises(LostRayError, match="its node on this machine has died"):
        watch.call(lambda: time.sleep(2), print)
    watch.close()


def test_a_raylet_that_does_not_answer_has_not_ended() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as raylet:  # nobody accepts: connections time out
        watch = RayWatch("h:1", "here", lambda: NODES, raylet.getsockname())
        assert watch.call(lambda: time.sleep(0.3) or 3, print) == 3
        watch.close()


def test_a_process_that_was_stopped_has_lost_nothing(watch: RayWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    watch.close()
    now = time.monotonic()
    monkeypatch.setattr(ray_watch.time, "monotonic", lambda: now + 3600)
    watch.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_the_work_to_end_and_handlers_are_put_back(watch: RayWatch, number: int) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    asked: list[int] = []

    def work() -> str:
        os.kill(os.getpid(), number)
        while not asked:
            time.sleep(0.01)
        return "ended"

    assert watch.call(work, asked.append) == "ended"
    assert asked == [number]
    assert {one: signal.getsignal(one) for one in before} == before


def test_a_second_ctrl_c_ends_at_once(watch: RayWatch) -> None:
    asked: list[int] = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not asked:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        FOREVER.wait()

    with pytest.raises(KeyboardInterrupt):
        watch.call(work, asked.append)
    assert asked == [signal.SIGINT]


def test_a_signal_that_is_ignored_stays_so(watch: RayWatch) -> None:
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asked: list[int] = []
        watch.call(lambda: (os.kill(os.getpid(), signal.SIGHUP), time.sleep(0.1)), asked.append)
        assert asked == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_that_gets_no_signals_is_watched_as_well(watch: RayWatch) -> None:
    values: list[int] = []
    caller = threading.Thread(target=lambda: values.append(watch.call(lambda: 5, print)))
    caller.start()
    caller.join(5)
    assert values == [5]
