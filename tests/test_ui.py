"""`raybd ui`: where MLflow's UI listens, and who is let in."""

import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from raybd.cli import main
from raybd.command_line import ui
from raybd.tracking import sqlite
from tests.conftest import free_port

ROOT = Path(__file__).parent.parent
Started = list[tuple[list[str], Mapping[str, str], Path]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """The command, environment and folder of each server that would have been started."""
    servers: Started = []

    def replace(command: list[str], environment: Mapping[str, str], folder: Path) -> int:
        servers.append((command, environment, folder))
        return 0

    monkeypatch.setattr(ui, "_replace_process", replace)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return servers


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_ui_is_bound_to_this_machine_and_says_who_can_enter(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", "--tracking-uri", f"sqlite:///{tmp_path}/x.db"]) == 0
    [(command, environment, _)] = started
    assert option(command, "--host") == "127.0.0.1"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/x.db"
    assert "--app-name" not in command
    assert "Every user of this machine can open it" in capsys.readouterr().out


def test_a_login_has_a_password_that_its_owner_alone_can_read(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["ui", "--login", "--tracking-uri", f"sqlite:///{tmp_path}/x.db"]) == 0
    said = capsys.readouterr().out
    passwords = {environment["MLFLOW_AUTH_ADMIN_PASSWORD"] for _, environment, _ in started}
    [password] = passwords
    folder = tmp_path / ".raybd/ui"
    assert (folder / "password").read_text() == password
    assert len(password) > 20
    assert password not in said + " ".join(started[0][0])
    assert str(folder / "password") in said
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    assert option(started[0][0], "--app-name") == "basic-auth"
    assert started[0][2] == folder  # where MLflow keeps the login's database


def test_a_taken_port_is_refused_where_it_was_asked_for_and_else_avoided(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ui, "PORT", port)
        assert main(["ui", "--tracking-uri", "sqlite:///x.db"]) == 0
        assert option(started[0][0], "--port") != str(port)
        assert main(["ui", "--tracking-uri", "sqlite:///x.db", "--port", str(port)]) == 2
        assert f"--port {port} of 127.0.0.1 is taken" in capsys.readouterr().err
    own = free_port()
    assert main(["ui", "--tracking-uri", "sqlite:///x.db", "--port", str(own)]) == 0
    assert option(started[1][0], "--port") == str(own)
    assert main(["ui", "--port", "99999"]) == 2
    assert "a port is from 1 to 65535" in capsys.readouterr().err


def test_a_store_that_is_a_server_shows_itself(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--tracking-uri", "http://me:secret@10.0.0.1:5000"]) == 0
    assert not started
    assert "http://***@10.0.0.1:5000" in capsys.readouterr().out


def test_make_ui_is_the_command() -> None:
    assert "$(BIN)/raybd ui " in (ROOT / "Makefile").read_text()
    assert "mlflow server" not in (ROOT / "Makefile").read_text()


def test_a_store_that_may_only_be_read_is_shown(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/x.db"
    sqlite.prepare(uri)
    monkeypatch.setattr(sqlite, "writable", lambda _: False)
    assert main(["ui", "--tracking-uri", uri]) == 0
    [(_, environment, _)] = started
    assert "mode=ro" in environment["MLFLOW_BACKEND_STORE_URI"]
