"""Which Ray a sweep joins: the one that is named, the user's own, and never another's, a private or a dead one."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raybd.command_line.options import SweepOptions
from raybd.errors import InputError
from raybd.execution import private_ray, ray_choice
from raybd.execution.ray_choice import LOCAL, choose, own_rays
from tests.conftest import free_port

SLEEP = "import time; time.sleep(100)"
NOBODY = 65534


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


class Nodes:
    """Processes that look like Ray's `raylet`, each with a temporary folder."""

    def __init__(self, stack: ExitStack, base: Path) -> None:
        self._stack, self._base, self._count = stack, base, 0

    def start(self, file: str | None, *before: str, user: int | None = None, **variables: str) -> str:
        """The address of a new node, in whose folder a file names `file` ("" is its own address, None no file)."""
        self._count += 1
        folder, address = self._base / str(self._count), f"10.9.8.7:{self._count}"
        folder.mkdir()
        folder.parent.chmod(0o755)
        if file is not None:
            (folder / "ray_current_cluster").write_text(f"{file or address}\n")
            shutil.chown(folder / "ray_current_cluster", os.getuid() if user is None else user)
        become = ["bash", "-c", 'exec -a raylet bash -c "read line" "$@"', "bash"]  # reads until it is killed
        command = [*before, *become, f"--temp_dir={folder}", f"--gcs-address={address}"]
        environment = os.environ | variables
        process = subprocess.Popen(command, stdin=subprocess.PIPE, user=user, env=environment)
        self._stack.callback(end, process)
        while Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[0] != "raylet":
            time.sleep(0.01)
        return address


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack, tmp_path)


def found() -> set[str]:
    """Addresses of this user's own Rays, of those that a test has started."""
    return {own.address for own in own_rays() if own.address.startswith("10.9.8.7:")}


# --- whose Ray -------------------------------------------------------------------------------------------------------


def test_a_ray_is_the_user_s_own_where_ray_start_left_its_address(nodes: Nodes) -> None:
    mine = nodes.start("")
    nodes.start(None)  # a program's, or a sweep's, own: ray.init leaves no file
    nodes.start("10.9.8.7:77")  # the file names one that has died
    assert found() == {mine}


def test_a_worker_s_node_is_found_by_the_file_in_the_default_folder(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("10.9.8.7:1")
    for name in ("RAY_TMPDIR", "TMPDIR"):
        mine = nodes.start(None, **{"RAY_TMPDIR": "", "TMPDIR": "", name: str(tmp_path)})
        (tmp_path / "ray/ray_current_cluster").write_text(mine)
        assert found() == {mine}


def test_a_ray_that_has_ended_is_nobody_s(nodes: Nodes) -> None:
    with ExitStack() as stack:
        address = Nodes(stack, nodes._base).start("")
        assert found() == {address}
    assert found() == set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can play another user")
def test_another_user_s_ray_is_not_ours_nor_is_a_file_of_his(nodes: Nodes, tmp_path: Path) -> None:
    nodes.start("", user=NOBODY)
    mine = nodes.start("")
    file = tmp_path / "2/ray_current_cluster"
    assert found() == {mine}
    shutil.chown(file, NOBODY)
    assert found() == set()


def test_a_process_that_is_not_this_user_s_is_left_alone(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.start("")
    monkeypatch.setattr(ray_choice.os, "getuid", lambda: 123456)
    assert found() == set()


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0,
    reason="no leave to make a network namespace",
)
def test_a_ray_of_another_network_is_not_ours(nodes: Nodes) -> None:
    nodes.start("", "unshare", "-n")
    mine = nodes.start("")
    assert found() == {mine}


def test_credentials_come_from_the_user_s_own_ray_and_where_it_listens(nodes: Nodes) -> None:
    wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/there", ray_choice.LOOPBACK: "0"}
    nodes.start("", **wanted)
    [own] = [own for own in own_rays() if own.address.startswith("10.9.8.7:")]
    assert own.variables == wanted


# --- what is chosen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["nonsense", "ray://h:1", "http://h:8265", "h:0", "h:70000", "h", ":1", "a b:1", "h:x", "Local"]
)
def test_an_address_that_is_none_is_refused_with_what_is_allowed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"--address {text!r} is no address of a Ray .*HOST:PORT.*auto.*local"):
        choose(text)
    assert any(text in problem for problem in SweepOptions.of(address=text).problems())
    assert SweepOptions.of(address=text, inline=True).problems() == []
    monkeypatch.setenv("RAY_ADDRESS", text)
    with pytest.raises(InputError, match=f"RAY_ADDRESS {text!r} is no"):
        choose(None)


@pytest.mark.parametrize("text", ["h:1", "10.0.0.1:6379", "[::1]:6379", "a-b.c:65535", "auto", "local"])
def test_addresses_of_every_spelling(text: str) -> None:
    assert ray_choice.address_problems(text) == []


def test_a_closed_port_and_an_unknown_host_are_told_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no Ray can be joined at 127.0.0.1:\d+ \(--address\): .*refused"):
        choose(f"127.0.0.1:{free_port()}")
    assert time.monotonic() - start < 10


def test_a_port_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_choice, "SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match=r"\(RAY_ADDRESS\): it has not answered within 2 s"):
            choose(None)


def test_an_own_ray_that_is_silent_is_told_of_and_a_new_one_started(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [ray_choice.OwnRay("127.0.0.1:1", {})]
    monkeypatch.setattr(ray_choice, "own_rays", lambda: own)
    choice = choose(None)
    assert (choice.private, choice.address) == (True, LOCAL)
    assert "yours at 127.0.0.1:1" in choice.note
    assert "refused" in choice.note
    assert "new one" in choice.note
    with pytest.raises(InputError, match="yours at 127.0.0.1:1.*refused"):
        choose("auto")
    own.clear()
    assert choose(None) == ray_choice.RayChoice(LOCAL)
    with pytest.raises(InputError, match="--address auto: you have started no Ray"):
        choose("auto")


def test_an_own_ray_that_answers_is_joined_with_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, str]]] = []
    own = ray_choice.OwnRay("10.0.0.1:6379", {"RAY_AUTH_MODE": "token"})
    monkeypatch.setattr(ray_choice, "own_rays", lambda: [own])
    monkeypatch.setattr(ray_choice, "no_answer", lambda address, given, seconds: asked.append((address, given)) or "")
    for choice in (choose(None), choose("auto")):
        assert (choice.address, choice.variables) == ("10.0.0.1:6379", own.variables)
        assert "10.0.0.1:6379, started with `ray start`" in choice.note
    assert choose("local").private
    assert choose("h:1").note == "joins the one at h:1, which --address names"
    assert asked == [("10.0.0.1:6379", own.variables)] * 2 + [("h:1", {})]


# --- the folder of a private Ray -------------------------------------------------------------------------------------


def test_a_private_folder_is_the_user_s_alone_short_and_removed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tempfile.mkdtemp(prefix="b", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", base)
    code = f"from raybd.execution import private_ray as p; print(p.new_folder().parent, flush=True); {SLEEP}"
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    left = Path(killed.stdout.readline().strip())
    assert left.stat().st_mode & 0o777 == 0o700
    assert len(str(left)) <= private_ray.LONGEST
    second = subprocess.run(
        [sys.executable, "-c", code.replace(SLEEP, "")], stdout=subprocess.PIPE, text=True, check=True
    )
    assert left.exists()  # its process lives
    assert not Path(second.stdout.strip()).exists()  # removed at the end of its own
    killed.kill()
    killed.wait()
    subprocess.run([sys.executable, "-c", code.replace(SLEEP, "")], stdout=subprocess.DEVNULL, check=True)
    assert not left.exists()
    shutil.rmtree(base)


def test_a_long_temporary_folder_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 40)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    folder = private_ray.new_folder()
    assert len(str(folder.parent)) <= private_ray.LONGEST
    assert long not in folder.parents


def test_a_process_with_a_ray_on_loopback_joins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # noqa: F401

    monkeypatch.setenv(ray_choice.LOOPBACK, "0")
    with pytest.raises(InputError, match="in a new process"):
        private_ray.listen_to_others()
