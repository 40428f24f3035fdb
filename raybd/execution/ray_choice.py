"""Which Ray a sweep runs on: the one that is named, else the user's own on this machine, else a new one.

Imports no Ray: what a private Ray listens on is settled when Ray is imported.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raybd.errors import InputError

LOCAL, AUTO, VARIABLE = "local", "auto", "RAY_ADDRESS"
ALLOWED = "allowed: HOST:PORT of its head, as 10.0.0.1:6379, auto (the one that you started here) or local (a new one)"
HOST_PORT = re.compile(r"([^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
SECONDS = 20  # for an answer: with what comes before, a sweep says within 30 whether it can run
CREDENTIALS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # of `ray job submit`: its driver is the sweep, not the probe
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" when Ray is imported: it listens on 127.0.0.1 alone


@dataclass(frozen=True)
class RayChoice:
    """The Ray at `address`, to be joined, or a new one where that is `local`."""

    address: str
    note: str = ""  # for the first line of a sweep's output; "" for a new Ray that nothing is to be said of
    variables: Mapping[str, str] = field(default_factory=dict)  # environment with which it is joined

    @property
    def private(self) -> bool:
        """Whether it is a new Ray, for this sweep alone."""
        return self.address == LOCAL


@dataclass(frozen=True)
class OwnRay:
    """A Ray that this user started on this machine with `ray start`."""

    address: str
    variables: Mapping[str, str]  # those of its environment that say who may come in, and where it listens


def address_problems(address: str | None) -> list[str]:
    """What is wrong with the spelling of `address`, or of RAY_ADDRESS where it is None."""
    named, source = _named(address)
    found = HOST_PORT.fullmatch(named)
    if named in ("", LOCAL, AUTO) or (found and 0 < int(found[2]) < 2**16):
        return []
    return [f"{source} {named!r} is no address of a Ray ({ALLOWED})"]


def choose(address: str | None) -> RayChoice:
    """The Ray at `address` or at RAY_ADDRESS; else one that this user started here; else a new one.

    A Ray that is joined has answered, and let this user in.

    Raises:
        InputError: the Ray that is named is none, or does not answer.
    """
    if found := address_problems(address):
        raise InputError(found)
    named, source = _named(address)
    if named == LOCAL:
        return RayChoice(LOCAL)
    if named not in ("", AUTO):
        variables = next((own.variables for own in own_rays() if own.address == named), {})
        if reason := no_answer(named, variables, SECONDS):
            raise InputError(f"no Ray can be joined at {named} ({source}): {reason}")
        return RayChoice(named, f"joins the one at {named}, which {source} names", variables)
    return _own_or_new(named == AUTO)


def _own_or_new(must_join: bool) -> RayChoice:
    """The user's own Ray, if it answers, else a new one.

    Raises:
        InputError: there is none to join.
    """
    end, silent = time.monotonic() + SECONDS, list[str]()
    for own in own_rays():
        reason = no_answer(own.address, own.variables, max(1, int(end - time.monotonic())))
        if not reason:
            note = f"joins yours at {own.address}, started with `ray start` (--address local: a new one instead)"
            return RayChoice(own.address, note, own.variables)
        silent.append(f"yours at {own.address}, started with `ray start`, cannot be joined: {reason}")
    if must_join:
        raise InputError(silent or ["--address auto: you have started no Ray on this machine with `ray start`"])
    return RayChoice(LOCAL, "; ".join([*silent, "starts a new one"]) if silent else "")


def no_answer(address: str, variables: Mapping[str, str], seconds: int) -> str:
    """Why the Ray at `address` cannot be joined; "" if it can."""
    environment = {name: value for name, value in os.environ.items() if name not in (JOB_CONFIG, LOOPBACK)}
    command = [sys.executable, "-P", str(Path(__file__).with_name("ray_probe.py")), address, str(seconds)]
    done = subprocess.run(
        command,
        env=environment | dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return ""
    if re.search("authenticat|InvalidAuthToken", done.stdout, re.IGNORECASE):
        return "it does not let you in: RAY_AUTH_MODE=token, and its token at RAY_AUTH_TOKEN_PATH, would"
    if done.returncode < 0:
        return f"it has not answered within {seconds} s"
    return ([line.strip() for line in done.stdout.splitlines() if line.strip()] or ["it ended the connection"])[-1][
        :300
    ]


def own_rays(processes: Path = Path("/proc")) -> list[OwnRay]:
    """The Rays that this user started on this machine with `ray start`, each once.

    Every node of a Ray has a process `raylet`; it must be this user's and of this network. `ray start` leaves the
    address of its Ray in a file; a Ray that a program started for itself (`ray.init`) leaves none.
    """
    found = (_own_ray(process) for process in sorted(processes.glob("[0-9]*")))
    return list({own.address: own for own in found if own is not None}.values())


def _own_ray(process: Path) -> OwnRay | None:
    """The Ray whose node's `raylet` is `process`, if this user started it with `ray start` in this network."""
    try:
        command = (process / "cmdline").read_text(errors="replace").split("\0")
        if Path(command[0]).name != "raylet" or process.stat().st_uid != os.getuid():
            return None
        if (process / "ns/net").readlink() != (process.parent / "self/ns/net").readlink():
            return None
        environment = dict(_pairs((process / "environ").read_text(errors="replace").split("\0")))
    except OSError:  # it has ended, or is somebody else's
        return None
    options = dict(_pairs(command))
    address = options.get("--gcs-address", "")
    if not any(_named_in(folder, address) for folder in _address_folders(options, environment)):
        return None
    return OwnRay(address, {name: environment[name] for name in (*CREDENTIALS, LOOPBACK) if name in environment})


def _pairs(texts: list[str]) -> Iterator[tuple[str, str]]:
    """NAME and VALUE of the texts NAME=VALUE."""
    for text in texts:
        name, equals, value = text.partition("=")
        if equals:
            yield name, value


def _address_folders(options: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Path]:
    """Where `ray start` may have left the address: the node's temporary folder, or the default one of its user."""
    if "--temp_dir" in options:
        yield Path(options["--temp_dir"])
    yield Path(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp") / "ray"


def _named_in(folder: Path, address: str) -> bool:
    """Whether the user's own file in `folder` names `address`: in a folder that all may write, it may be another's."""
    file = folder / "ray_current_cluster"
    try:
        return file.lstat().st_uid == os.getuid() and file.read_text().strip() == address != ""
    except OSError:
        return False


def _named(address: str | None) -> tuple[str, str]:
    """The address that is named, "" if none is, and what names it."""
    return (address, "--address") if address is not None else (os.environ.get(VARIABLE, ""), VARIABLE)
