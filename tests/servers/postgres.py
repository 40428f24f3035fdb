"""A PostgreSQL server on this machine, of a test's own."""

import os
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.conftest import free_port

ANYWHERE = [Path("/usr/lib/postgresql"), Path("/usr/pgsql")]
NOBODY = 65534  # PostgreSQL refuses to run as root


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    found_there = sorted(path.parent for place in ANYWHERE for path in place.glob("*/bin/initdb"))
    return found_there[-1] if found_there else None


class Postgres:
    """The server, with its data in a folder that any user may enter."""

    def __init__(self, folder: Path) -> None:
        where = programs()
        assert where is not None
        self.programs, self.folder, self.port = where, folder, free_port()
        self.uri = f"postgresql+psycopg2://raybd@127.0.0.1:{self.port}/postgres"
        folder.mkdir()
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        self._run("initdb", "-A", "trust", "-U", "raybd", "--no-sync")

    def start(self) -> None:
        options = f"-k '' -h 127.0.0.1 -p {self.port} -F"  # no socket in a folder, no fsync
        self._run("pg_ctl", "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def create(self, name: str) -> str:
        """The URI of a new database."""
        with create_engine(self.uri, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return self.uri.removesuffix("postgres") + name

    def _run(self, program: str, *options: str) -> None:
        user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"] if os.getuid() == 0 else []
        command = [*user, str(self.programs / program), "-D", str(self.folder), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
