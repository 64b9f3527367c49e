"""Connections to the database of a live store: SQLite or PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from tokentape.store.errors import StoreError
from tokentape.store.live.packing import Packing, PostgresPacking, SqlitePacking
from tokentape.store.live.sqlite_file import check_sqlite_file, is_in_memory

BUSY_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The statements and types that differ between SQLite and PostgreSQL.

    A statement outside a transaction commits at once. Every commit survives the death of the
    process. One that is not durable survives a power failure only after the database has synced
    its log: SQLite at the next durable commit, PostgreSQL within three times `wal_writer_delay`
    (0.6 s by default).
    """

    name: str
    packing: Packing
    begin: str
    begin_reading: str
    """Opens a transaction that sees the database at the moment of its first query."""
    begin_durable: tuple[str, ...]
    """Open a transaction whose commit survives a power failure."""
    end_durable: str | None
    """Executed after a durable transaction."""


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
    """Yield a connection to a database with any schema. Raise StoreError if it cannot be used."""
    engine, _ = open_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise StoreError(f"cannot use {url.render_as_string()}: {error.orig}") from None
    finally:
        engine.dispose()


def writing_connection(engine: Engine, backend: Backend) -> Any:
    """Return a connection of the driver that commits each statement outside a transaction."""
    connection: Any = engine.raw_connection()
    if backend is SQLITE:
        connection.driver_connection.isolation_level = None
    else:
        connection.driver_connection.autocommit = True
    return connection


def open_engine(url: URL) -> tuple[Engine, Backend]:
    """Return an engine for a URL.

    Raise StoreError for an unsupported database and for a file that is not a SQLite database.
    """
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
    """Return libpq's options: a commit does not wait for the disk unless it is durable."""
    given = url.query.get("options", "")
    return f"{given if isinstance(given, str) else ' '.join(given)} -c synchronous_commit=off"


def _sqlite_engine(url: URL) -> Engine:
    if is_in_memory(url):
        engine = create_engine(url, poolclass=StaticPool)
    else:
        path = Path(url.database or "")
        check_sqlite_file(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {path.parent}: {error.strerror}") from None
        engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "synchronous=NORMAL",
            # Otherwise REPLACE deletes a row without its triggers.
            "recursive_triggers=ON",
            # Overwrite deleted content.
            "secure_delete=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
