"""Tracking stores in a database server, addressed without an MLflow server before it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

from raybd.errors import InputError, public

TIMEOUT = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}  # argument of each driver
SECONDS = 20
LOCK = 7_296_483_005  # any number that other programs with advisory locks in the same database do not take


def kind_of(uri: str) -> str | None:
    """The kind of database server of a URI such as postgresql+psycopg2://HOST/NAME; None for any other URI."""
    kind = urlparse(uri).scheme.partition("+")[0]
    return kind if kind in TIMEOUT else None


def check(uri: str) -> None:
    """Check that the database of `uri` answers, if it is one: MLflow itself asks ten times, for two minutes.

    Raises:
        InputError: its driver is not installed, it does not answer, or it refuses.
    """
    kind = kind_of(uri)
    if kind is not None:
        _connection(uri, kind).close()


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Inside, no other process opens a sweep in the PostgreSQL database of `uri`; for other stores, nothing.

    MLflow makes its tables in many steps, and fails where two processes do so at once.

    Raises:
        InputError: as `check`.
    """
    if kind_of(uri) != "postgresql":
        yield
        return
    with _connection(uri, "postgresql") as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")  # until the connection is closed
        yield


def artifacts_of(uri: str, name: str) -> str | None:
    """The artifact URI of experiment `name` of a database: below RAYBD_ARTIFACTS if that is set, else MLflow's default.

    An MLflow server has a place of its own, and so has a store in a file.
    """
    root = os.environ.get("RAYBD_ARTIFACTS")
    return f"{root.rstrip('/')}/{name}" if root and kind_of(uri) else None


def _connection(uri: str, kind: str) -> Any:
    """An open connection of SQLAlchemy, of a pool that keeps none."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import NoSuchModuleError
    from sqlalchemy.pool import NullPool

    try:
        return create_engine(uri, poolclass=NullPool, connect_args={TIMEOUT[kind]: SECONDS}).connect()
    except (ImportError, NoSuchModuleError) as error:
        hint = "pip install 'raybd[server]' for PostgreSQL's" if kind == "postgresql" else "install it"
        raise InputError(f"the tracking store {public(uri)} needs its database's driver ({error}): {hint}") from error
    except Exception as error:
        reason = " ".join(str(error).split("(Background on")[0].split())
        raise InputError(f"the tracking store {public(uri)} does not let raybd in: {reason}") from error
