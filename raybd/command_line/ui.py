"""`raybd ui`: MLflow's UI on a tracking store, on this machine alone, with a login if asked for."""

import importlib.util
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from raybd.errors import InputError, public

PORT = 5000
ADDRESS = "127.0.0.1"
MOST_LINKS = 5
OPEN_TO_ALL = "Every user of this machine can open it and change or delete runs; --login asks for a password."


def show_ui(tracking_uri: str | None = None, port: int | None = None, login: bool = False) -> int:
    """Start MLflow's UI on a tracking store, until Ctrl-C. It listens on 127.0.0.1 alone.

    Args:
        tracking_uri: MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default.
        port: Port; none: 5000, or a free one where that is taken.
        login: Ask for a name and a password, which other users of this machine do not have.
    """
    from raybd.tracking import relocation, sqlite
    from raybd.tracking.client import absolute_uri, client_settings

    uri = absolute_uri(tracking_uri)
    if uri.startswith(("http://", "https://")):
        print(f"The tracking store is a server, and shows itself: {public(uri)}")
        return 0
    door = str(_port(port))
    with client_settings():
        relocation.relocate_all(uri)
    print(f"MLflow: http://localhost:{door}   ({public(uri)}; Ctrl-C ends it)")
    print("".join(f"{line}\n" for line in _sweep_links(uri, f"http://localhost:{door}")), end="")
    command = [sys.executable, "-m", "mlflow", "server", "--host", ADDRESS, "--port", door, "--workers", "1"]
    served = {"MLFLOW_BACKEND_STORE_URI": sqlite.readable(uri), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**os.environ, **served}
    environment.pop("MLFLOW_TRACKING_URI", None)
    folder = Path.cwd()
    if login:
        folder = _login_folder()
        command += ["--app-name", "basic-auth"]
        environment |= _credentials(folder)
        print(f"Name: admin. Password: in {folder / 'password'}")
    else:
        print(OPEN_TO_ALL)
    return _replace_process(command, environment, folder)


def _sweep_links(uri: str, ui: str) -> list[str]:
    """The pages of the store's sweeps in the UI at the address `ui`, of at most MOST_LINKS of them."""
    from raybd.tracking.landing import runs_path
    from raybd.tracking.reader import find_sweeps

    try:
        reader, known = find_sweeps([], uri)
        sweeps = {name: id_ for name, id_ in known.items() if reader.runs(id_, "sweep")}
    except InputError:  # a store that is made when the server starts
        return []
    newest = sorted(sweeps, key=lambda name: -int(sweeps[name]))
    lines = [f"  {name}: {ui}{runs_path(sweeps[name])}" for name in newest[:MOST_LINKS]]
    return lines + [f"  and {len(newest) - MOST_LINKS} more sweeps"] * (len(newest) > MOST_LINKS)


def _replace_process(command: list[str], environment: Mapping[str, str], folder: Path) -> int:
    """Become the server, so that signals reach it and nothing waits beside it."""
    sys.stdout.flush()
    os.chdir(folder)  # MLflow keeps the login's database where it runs
    os.execve(command[0], command, dict(environment))


def _login_folder() -> Path:
    """The folder of the login's password and database, which its owner alone can enter.

    Raises:
        InputError: MLflow's login is not installed.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise InputError("MLflow's login is not installed: pip install 'mlflow[auth]'")
    folder = Path.home() / ".raybd" / "ui"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _credentials(folder: Path) -> dict[str, str]:
    """The variables from which MLflow takes its first password, made once, and the key of its sessions."""
    kept = {name: _secret(folder / name) for name in ("password", "session_key")}
    return {
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": kept["password"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": kept["session_key"],
    }


def _secret(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _port(asked: int | None) -> int:
    """The port `asked` for; if none: PORT, or a free one where that is taken.

    Raises:
        InputError: it is no port, or is taken.
    """
    if asked is None:
        return PORT if _is_free(PORT) else _free_port()
    if not 0 < asked < 65536:
        raise InputError(f"--port {asked}: a port is from 1 to 65535")
    if not _is_free(asked):
        raise InputError(f"--port {asked} of {ADDRESS} is taken: leave it out for a free one")
    return asked


def _is_free(port: int) -> bool:
    with socket.socket() as door:
        door.settimeout(2)
        return door.connect_ex((ADDRESS, port)) != 0


def _free_port() -> int:
    with socket.socket() as door:
        door.bind((ADDRESS, 0))
        return int(door.getsockname()[1])
