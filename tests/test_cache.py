"""The cache: one process computes, the others wait, and what is broken or cannot be written is no obstacle."""

import logging
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raybd.utils.cache import compute_once, content_hash, load_tensors
from raybd.utils.locks import lock
from tests.processes import spawned

VALUE = {"weights": torch.arange(100.0), "loss": 0.5}


def same(found: dict[str, Tensor | float]) -> bool:
    return torch.equal(torch.as_tensor(found["weights"]), VALUE["weights"]) and found["loss"] == VALUE["loss"]  # type: ignore[arg-type]


def computing(log: Path, seconds: float = 0.0) -> Callable[[], dict[str, Tensor | float]]:
    """A computation of VALUE that adds a letter to `log` when it starts."""

    def compute() -> dict[str, Tensor | float]:
        with log.open("a") as stream:
            stream.write("x")
        time.sleep(seconds)
        return VALUE  # type: ignore[return-value]

    return compute


def test_what_one_has_computed_the_next_loads(tmp_path: Path) -> None:
    path, log = tmp_path / "kind/key.pt", tmp_path / "log"
    assert all(same(compute_once(path, computing(log))) for _ in range(3))
    assert log.read_text() == "x"
    assert sorted(file.name for file in path.parent.iterdir()) == ["key.pt", "key.pt.lock"]
    assert path.with_name("key.pt.lock").stat().st_mode & 0o777 == 0o666  # a folder may be shared between users


def _process(path: Path, log: Path, seconds: float) -> None:
    assert same(compute_once(path, computing(log, seconds)))


def test_two_processes_compute_once(tmp_path: Path) -> None:
    path, log = tmp_path / "key.pt", tmp_path / "log"
    workers = [spawned(_process, path, log, 0.5) for _ in range(2)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "x"


def test_whoever_waits_calls_its_heartbeat_and_takes_over_from_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybd.utils.locks.POLL", 0.05)
    path, log = tmp_path / "key.pt", tmp_path / "log"
    holder = spawned(_process, path, log, 60.0)
    while not log.exists():
        time.sleep(0.01)
    alive: list[bool] = []

    def heartbeat() -> None:
        alive.append(holder.is_alive())
        if len(alive) == 4 and holder.pid:
            os.kill(holder.pid, signal.SIGKILL)
            holder.join()

    assert same(compute_once(path, computing(log), heartbeat=heartbeat))
    assert alive == [True] * 4
    assert log.read_text() == "xx"


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    """One bit of a weight is another: PyTorch alone loads this."""
    place = content.index(VALUE["weights"].numpy().tobytes()[:64]) + 10  # type: ignore[union-attr]
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [emptied, cut, flipped])
def test_a_broken_entry_is_computed_anew_with_a_warning(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, log = tmp_path / "key.pt", tmp_path / "log"
    compute_once(path, computing(log))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert same(compute_once(path, computing(log)))
    assert [record.getMessage().count("computed anew") for record in caplog.records] == [1]
    assert log.read_text() == "xx"
    assert same(load_tensors(path))


def test_an_entry_that_is_out_of_date_is_computed_anew_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, log = tmp_path / "key.pt", tmp_path / "log"
    compute_once(path, computing(log))
    assert same(compute_once(path, computing(log), load=lambda path: None))
    assert log.read_text() == "xx"
    assert not caplog.records


@pytest.mark.parametrize("folder", ["file/folder", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to_is_no_obstacle(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "log"
    assert same(compute_once(tmp_path / folder / "key.pt", computing(log)))
    assert "computed for this process alone" in caplog.text
    assert log.read_text() == "x"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_full_disk_is_no_obstacle_and_leaves_no_litter(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.touch()

    def save(value: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    path = tmp_path / "key.pt"
    assert same(compute_once(path, computing(tmp_path / "log"), save=save, resume_files=[checkpoint]))
    assert str(error) in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "key.pt.lock", "log"]


def test_nobody_sees_half_a_file_and_a_checkpoint_stays_until_the_entry_is_whole(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "key.pt", tmp_path / "checkpoint.pt"
    checkpoint.touch()

    def save(value: object, part: Path) -> None:
        part.write_bytes(b"half")
        assert not path.exists()
        torch.save(value, part)
        assert not path.exists()
        assert checkpoint.exists()

    compute_once(path, computing(tmp_path / "log"), save=save, resume_files=[checkpoint])
    assert same(load_tensors(path))
    assert not checkpoint.exists()


def test_a_computation_that_fails_goes_to_its_caller_and_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "key.pt"

    def fail() -> None:
        raise OSError("no luck")

    with pytest.raises(OSError, match="no luck"):
        compute_once(path, fail)
    assert same(compute_once(path, computing(tmp_path / "log")))


def test_a_mapped_file_is_verified_but_for_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "key.pt"
    torch.save(VALUE, path)
    whole = path.read_bytes()
    assert same(load_tensors(path, mmap=True))
    path.unlink()
    path.write_bytes(flipped(whole))
    assert not same(load_tensors(path, mmap=True))
    for damage in (cut(whole), whole.replace(b"loss", b"lots")):
        path.unlink()
        path.write_bytes(damage)
        with pytest.raises(zipfile.BadZipFile):
            load_tensors(path, mmap=True)


def test_a_hash_is_of_values_shapes_types_and_their_order() -> None:
    x = torch.arange(6)
    parts = [("a", x), (x, "a"), ("b", x), ("a", x.view(2, 3)), ("a", x.int()), ("a", x.flip(0)), ("a", x, x)]
    assert len({content_hash(*each) for each in parts}) == len(parts)
    assert content_hash("a", x) == content_hash("a", torch.stack([x, x], 1)[:, 0]) == content_hash({"a": x})


def test_a_lock_is_held_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.utils.locks.POLL", 0.05)

    class StopError(Exception):
        """Raised by the heartbeat of one who waits."""

    def stop() -> None:
        raise StopError

    with lock(tmp_path / "lock"), pytest.raises(StopError), lock(tmp_path / "lock", stop):
        pytest.fail("two hold it")
    with lock(tmp_path / "lock", stop):
        pass
