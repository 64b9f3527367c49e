"""Connections to the database of a live store: SQLite or PostgreSQL."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from tokentape.store.errors import StoreError
from tokentape.store.live.packing import Packing, PostgresPacking, SqlitePacking
from tokentape.store.live.schema import check_own_file

BUSY_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What differs between databases.

    A statement by itself is committed by itself; `begin` opens a transaction of several, and
    `begin_reading` one that sees the database as it was at its first query.
    `begin_durable` opens one that outlasts a loss of power, `end_durable` follows it. All else
    outlasts the death of the process at once, and a loss of power once the database has written it
    by itself: in PostgreSQL within three times `wal_writer_delay`, 0.6 s by default, in SQLite at
    the next full sync.
    """

    name: str
    packing: Packing
    begin: str
    begin_reading: str
    begin_durable: tuple[str, ...]
    end_durable: str | None


SQLITE = Backend(
    name="sqlite",
    packing=SqlitePacking(),
    begin="BEGIN IMMEDIATE",
    begin_reading="BEGIN",
    begin_durable=("PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"),
    end_durable="PRAGMA synchronous=NORMAL",
)
POSTGRESQL = Backend(
    name="postgresql",
    packing=PostgresPacking(),
    begin="BEGIN",
    begin_reading="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    begin_durable=("BEGIN", "SET LOCAL synchronous_commit TO on"),
    end_durable=None,
)


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """A connection to a database whatever its schema. Raises StoreError."""
    engine, _ = open_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise StoreError(f"cannot use {url.render_as_string()}: {error.orig}") from None
    finally:
        engine.dispose()


def writing_connection(engine: Engine, backend: Backend) -> Any:
    """A connection of the driver itself, which commits each statement that stands alone."""
    connection: Any = engine.raw_connection()
    if backend is SQLITE:
        connection.driver_connection.isolation_level = None
    else:
        connection.driver_connection.autocommit = True
    return connection


def is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The file that was opened under a path; SQLite goes on with it wherever it is by now."""

    path: Path
    status: os.stat_result

    @classmethod
    def of(cls, url: URL) -> Self | None:
        """None for a database that is no file."""
        if url.get_backend_name() != "sqlite" or is_in_memory(url):
            return None
        path = Path(url.database or "").absolute()
        return cls(path, path.stat())

    def require_in_place(self) -> None:
        """Raises StoreError where nobody would ever find what is written."""
        try:
            is_same = os.path.samestat(self.path.stat(), self.status)
        except OSError:
            is_same = False
        if not is_same:
            raise StoreError(
                f"{self.path} was taken away or replaced while it was open: what is recorded now "
                "would be lost; open the store again"
            )


def open_engine(url: URL) -> tuple[Engine, Backend]:
    """Raises StoreError for a database that is not supported, or a file that is none."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url), SQLITE
    if url.get_backend_name() != "postgresql":
        raise StoreError(
            f"{url.get_backend_name()} is not supported: use sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/DATABASE"
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        # A commit does not wait for the disk unless it is durable; see Backend.
        engine = create_engine(
            url,
            connect_args={"options": _options(url)},
            pool_pre_ping=True,
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{url.drivername} needs {error.name}: install tokentape[postgres]"
        ) from None
    return engine, POSTGRESQL


def _options(url: URL) -> str:
    given = url.query.get("options", "")
    return f"{given if isinstance(given, str) else ' '.join(given)} -c synchronous_commit=off"


def _sqlite_engine(url: URL) -> Engine:
    if is_in_memory(url):
        engine = create_engine(url, poolclass=StaticPool)
    else:
        path = Path(url.database or "")
        check_own_file(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent}: {error.strerror}") from None
        engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "synchronous=NORMAL",
            # Without it REPLACE deletes a row past the triggers that refuse deletion.
            "recursive_triggers=ON",
            # What is erased is overwritten.
            "secure_delete=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
