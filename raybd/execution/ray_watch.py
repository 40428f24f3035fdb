"""RayWatch: does what waits for Ray in a thread, so that signals and the loss of Ray are noticed meanwhile."""

import socket
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import ray

from raybd.errors import LostRayError
from raybd.utils.signals import first_signal

T = TypeVar("T")
ASK_SECONDS = 2.0  # between two questions to Ray
SILENT_SECONDS = 20.0  # without an answer, after which Ray has gone away
HURRIED_SECONDS = 5.0  # the same once the work is asked to end: who asks, kills it soon
POLL_SECONDS = 0.25


class RayWatch:
    """Whether the connected Ray is there: its head answers, and this machine's node is alive.

    Without it the driver waits for as long as a minute and is ended by Ray without a word (a head that has gone), or
    waits for ever (a node that answers nothing). A raylet that has ended refuses connections at once; 10 to 15 seconds
    later the head calls its node dead, and then Ray ends this process, which cannot write to the node's object store.
    """

    def __init__(
        self,
        address: str,
        node: str,
        nodes: Callable[[], list[dict[str, Any]]] = ray.nodes,
        raylet: tuple[str, int] | None = None,
    ) -> None:
        """`address` of the head, identifier of this machine's `node`, what a thread asks: all nodes; and host and port
        of the node's `raylet`, None where they are not known."""
        self._address, self._node, self._nodes, self._raylet = address, node, nodes, raylet
        self._answers, self._dead, self._refused = 0, 0, 0  # answers; the last in a row without the node; refusals
        self._closed = Event()
        self._seen, self._silence, self._polled, self._hurried = 0, 0.0, time.monotonic(), False
        Thread(target=self._ask, daemon=True).start()

    @classmethod
    def of_connected(cls) -> "RayWatch":
        """A watch on the Ray that this process is connected to."""
        context = ray.get_runtime_context()
        node = context.get_node_id()
        raylets = ((one["NodeManagerAddress"], one["NodeManagerPort"]) for one in ray.nodes() if one["NodeID"] == node)
        return cls(context.gcs_address, node, raylet=next(raylets, None))

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def check(self) -> None:
        """Look at the answers so far; to be called every POLL_SECONDS.

        Raises:
            LostRayError: Ray has gone away.
        """
        now = time.monotonic()
        passed = min(now - self._polled, 4 * POLL_SECONDS)  # while this process was stopped, nothing could be heard
        self._polled = now
        self._silence = 0.0 if self._answers > self._seen else self._silence + passed
        self._seen = self._answers
        self._refused = self._refused + 1 if self._refuses() else 0
        if max(self._dead, self._refused) > 1:
            raise LostRayError(f"the Ray at {self._address} has gone away: its node on this machine has died")
        patience = min(HURRIED_SECONDS, SILENT_SECONDS) if self._hurried else SILENT_SECONDS
        if self._silence > patience:
            raise LostRayError(f"the Ray at {self._address} has gone away: no answer for {patience:g} s")

    def call(self, work: Callable[[], T], stop: Callable[[int], None]) -> T:
        """The value of `work()`, which a thread does. At a first signal (Ctrl-C, SIGTERM, SIGHUP) `stop` is called with
        it and `work` shall end soon; a second Ctrl-C is a KeyboardInterrupt, another second signal ends the process.

        Raises:
            LostRayError: Ray has gone away; `work` is left to itself.
        """

        def asked(number: int) -> None:
            self._hurried = True
            stop(number)

        with first_signal(asked):
            doing = _Doing(work)
            while doing.thread.is_alive():
                doing.thread.join(POLL_SECONDS)
                self.check()
        return doing.value()

    def _refuses(self) -> bool:
        """Whether nobody listens where this machine's raylet did."""
        if self._raylet is None:
            return False
        try:
            socket.create_connection(self._raylet, POLL_SECONDS).close()
        except OSError as error:  # another one than a refusal: it may be busy, or stopped
            return isinstance(error, ConnectionRefusedError)
        return False

    def _ask(self) -> None:
        while not self._closed.wait(ASK_SECONDS):
            try:
                nodes = self._nodes()
            except Exception:  # noqa: BLE001 - no answer, whatever it is
                continue
            alive = any(node["NodeID"] == self._node and node["Alive"] for node in nodes)
            self._dead = 0 if alive else self._dead + 1
            self._answers += 1


class _Doing(Generic[T]):
    """Work that a thread does, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._values = work, list[T]()
        self._error: BaseException | None = None
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def value(self) -> T:
        """What the work returned, or raised."""
        if self._error is not None:
            raise self._error
        return self._values[0]

    def _run(self) -> None:
        try:
            self._values.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised by `value`
            self._error = error
