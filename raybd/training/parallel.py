"""Several processes of one machine that do the same work together: this one leads, the others are its peers.

A peer is spawned, gets the work once through a pipe, and waits there for the next turn, for as long as the leader
takes to measure something between two turns. It ends when the pipe is closed, and with the leader, whatever ended it.
Within a turn the workers talk through torch.distributed: nccl between GPUs, gloo over loopback between CPUs.
"""

import os
import pickle
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from raybd.errors import InputError
from raybd.training.team import BrokenTeamError, Member, Team

Work = Callable[[int, Team], float]  # (number of the turn, team) -> a number that is the same for every worker
TIMEOUT = 300.0  # seconds that a worker waits for the others within a turn: less than a sweep's watchdog
STARTING = 300.0  # seconds for a peer to start in
GRACE = 5.0  # seconds for a process to end in
spawning = get_context("spawn")  # a fork of a process with threads or a GPU is a broken one


@contextmanager
def together(work: Work, workers: int, device: torch.device) -> Iterator[Callable[[int], float]]:
    """What does one turn of `work`, on `device`, with `workers` - 1 peers, each on a GPU of its own if that is one.

    Raises:
        InputError: there are too few GPUs, or the work cannot be sent to another process.
        BrokenTeamError: a peer has died, with what it said; or none was heard of for `TIMEOUT` seconds.
    """
    if workers == 1:
        alone = Team()
        yield lambda number: work(number, alone)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        peers = stack.enter_context(_peers(work, workers, device, folder))
        with _named(peers):
            stack.enter_context(_group(device.type, folder, 0, workers, TIMEOUT))
        for peer in peers:
            stack.callback(peer.pipe.close)  # first of all on the way out: they leave the group when we do
        yield partial(_turn, work, Member(0, workers), peers)


def _turn(work: Work, team: Team, peers: Sequence["_Peer"], number: int) -> float:
    with _named(peers):
        for peer in peers:
            peer.pipe.send(number)
        return work(number, team)


class _Peer:
    """A process beside this one, and the pipe to it."""

    def __init__(self, rank: int, size: int, device: str, gpu: str, folder: str) -> None:
        self.rank, self.size, self.said = rank, size, ""
        self.pipe, theirs = spawning.Pipe()
        said = (theirs, rank, size, device, gpu, folder, torch.get_num_threads(), TIMEOUT)
        self.process = spawning.Process(target=_serve, args=said, daemon=True)
        self.process.start()
        theirs.close()  # so that the peer's end alone keeps the pipe open

    def start(self, packed: bytes) -> None:
        """Give it its work."""
        self.pipe.send_bytes(packed)

    def started(self) -> None:
        """Wait until it has unpacked its work."""
        if not self.pipe.poll(STARTING):
            raise BrokenTeamError(f"worker {self.rank + 1} of {self.size} did not start within {STARTING:g} s")
        if said := self.pipe.recv():
            self.said = said
            raise BrokenTeamError(said)

    def fate(self) -> str:
        """How it ended, and what it said last; "" if it lives."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                self.said = self.pipe.recv()
        if not self.said and self.process.is_alive():
            return ""
        last = self.said.strip().splitlines()[-1] if self.said else f"exit status {self.process.exitcode}"
        return f"worker {self.rank + 1} of {self.size} died: {last}"

    def end(self) -> None:
        """Wait until it has ended, and kill it if it does not."""
        self.pipe.close()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()


@contextmanager
def _peers(work: Work, workers: int, device: torch.device, folder: str) -> Iterator[list[_Peer]]:
    """Peers that have got the work; they end with the context."""
    gpus = _gpus(workers) if device.type == "cuda" else [""] * workers
    packed = _packed(work)
    peers: list[_Peer] = []
    try:
        peers += [_Peer(rank, workers, device.type, gpus[rank], folder) for rank in range(1, workers)]
        with _named(peers):
            for peer in peers:
                peer.start(packed)
            for peer in peers:
                peer.started()
        yield peers
    finally:
        for peer in peers:
            peer.end()


def _packed(work: Work) -> bytes:
    """The bytes of which a peer makes its own copy of the work: tensors are copied, never shared."""
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"the training cannot be sent to other workers: {error}") from error


def _gpus(workers: int) -> list[str]:
    """The names of the GPUs of all workers, in the order in which this process sees them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = said.split(",") if said is not None else [str(gpu) for gpu in range(torch.cuda.device_count())]
    if len(names) < workers:
        raise InputError(f"{workers} workers need a GPU each, and this process sees {len(names)}")
    return names


@contextmanager
def _named(peers: Sequence[_Peer]) -> Iterator[None]:
    """Inside, an error that comes of a peer's death tells of that."""
    try:
        yield
    except (BrokenTeamError, EOFError, OSError) as error:
        connection.wait([peer.process.sentinel for peer in peers], timeout=GRACE)
        if told := [fate for peer in peers if (fate := peer.fate())]:
            raise BrokenTeamError("; ".join(told)) from error
        raise


def _serve(
    pipe: Connection, rank: int, size: int, device: str, gpu: str, folder: str, threads: int, timeout: float
) -> None:
    """The life of a peer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal's processes; the leader decides
    threading.Thread(target=end_with_leader, daemon=True).start()
    torch.set_num_threads(threads)
    if device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA starts: what the leader has on cuda:0 lies on ours here
    try:
        work = pipe.recv()
        pipe.send("")
        with _group(device, folder, rank, size, timeout):
            team = Member(rank, size)
            while True:
                work(pipe.recv(), team)
    except EOFError:  # the leader needs us no more
        return
    except Exception:  # noqa: BLE001 - whatever it is, the leader must hear of it
        with suppress(OSError):
            pipe.send(traceback.format_exc())


def end_with_leader() -> None:
    """End this process when its parent ends, even by SIGKILL and even while a GPU waits for a message."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _group(device: str, folder: str, rank: int, size: int, timeout: float) -> Iterator[None]:
    """The process group of all workers, which meet in a file and talk over loopback, where no other machine is."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.FileStore(str(Path(folder) / "store"), size),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
