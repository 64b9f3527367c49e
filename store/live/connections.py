"""Connections to the database of a live store: SQLite or PostgreSQL."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from tokentape.store.errors import StoreError
from tokentape.store.live.packing import Packing, PostgresPacking, SqlitePacking
from tokentape.store.live.sqlite_access import Access, connect, usable_access
from tokentape.store.location import is_in_memory, shown

BUSY_TIMEOUT_MS = 60_000
_SERVER_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Settings of libpq, in seconds and milliseconds, for a server that vanishes without a word: the
system's own would notice it after a quarter of an hour, or after two hours."""


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
    begins_always: bool = False
    """Whether a single statement needs a transaction, too, not to wait for the disk."""


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
    begin_durable=("BEGIN; SET LOCAL synchronous_commit TO on",),
    end_durable=None,
)
POOLED_POSTGRESQL = replace(
    POSTGRESQL, begin="BEGIN; SET LOCAL synchronous_commit TO off", begins_always=True
)
"""PostgreSQL by way of a pooler: settings are those of one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database that can be connected to."""

    engine: Engine
    backend: Backend
    where: str
    """Its URL without the password, for messages."""
    access: Access = Access.CREATE

    def check_writable(self) -> None:
        """Raise StoreError if the file was opened for reading."""
        if not self.access.is_writable:
            raise StoreError(
                f"cannot write to {self.where}: the file, its folder or the URL allows only "
                "reading. Record into another store, or copy the file to a folder that can be "
                "written to"
            )

    def writing_connection(self) -> Any:
        """Return a connection of the driver that commits each statement outside a transaction."""
        connection: Any = self.engine.raw_connection()
        if self.backend.name == "sqlite":
            connection.driver_connection.isolation_level = None
        else:
            connection.driver_connection.autocommit = True
        return connection


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """Yield a connection to a database with any schema. Raise StoreError if it cannot be used."""
    database = open_database(url)
    try:
        with database.engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise StoreError(f"cannot use {database.where}: {error.orig}") from None
    finally:
        database.engine.dispose()


def open_database(url: URL) -> Database:
    """Return a database by its URL; see `tokentape.store.location`.

    Raise StoreError for an unsupported database, for a file that is not a SQLite database, and for
    one that cannot be read.
    """
    if is_in_memory(url):
        # Threads take turns; see `DatabaseReader`.
        shared = {"check_same_thread": False}
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=shared)
        event.listen(engine, "connect", _prepare_sqlite)
        return Database(engine=engine, backend=SQLITE, where=shown(url))
    if url.get_backend_name() == "sqlite":
        return _sqlite_database(url)
    if url.drivername != "postgresql+psycopg":
        raise StoreError(
            f"{url.drivername} is not supported: use sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/DATABASE"
        )
    try:
        arguments = _connection_defaults(url)
        engine = create_engine(url, pool_pre_ping=True, connect_args=arguments)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{url.drivername} needs {error.name}: install tokentape[postgres]"
        ) from None
    event.listen(engine, "connect", _prepare_postgresql)
    return Database(engine=engine, backend=POSTGRESQL, where=shown(url))


def _connection_defaults(url: URL) -> dict[str, int]:
    """Return the settings of `_SERVER_DEFAULTS` that neither the URL nor the environment has."""
    given = {*url.query, *(["connect_timeout"] if "PGCONNECT_TIMEOUT" in os.environ else [])}
    return {name: value for name, value in _SERVER_DEFAULTS.items() if name not in given}


def _sqlite_database(url: URL) -> Database:
    path = Path(str(url.database)).absolute()
    access = usable_access(url)
    if access is Access.CREATE:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {path.parent}: {error.strerror}") from None
    # Each recording that is being read takes a connection, however many threads do so.
    engine = create_engine(
        url.set(query={}), creator=lambda: connect(path, access), max_overflow=-1
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return Database(engine=engine, backend=SQLITE, where=shown(url), access=access)


def _prepare_sqlite(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "synchronous=NORMAL",
        # Otherwise REPLACE deletes a row without its triggers.
        "recursive_triggers=ON",
        # Overwrite deleted content.
        "secure_delete=ON",
        # Check each page as it is read: damage is an error, and is not misread.
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if sqlite3.sqlite_version_info >= (3, 41):
        # Nothing in a schema may call functions with side effects. Before, the functions for JSON
        # counted as such, which our views call, and perhaps a table of another application.
        connection.execute("PRAGMA trusted_schema=OFF")
    # Before Python 3.12, the driver can set no such flag.
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)


def _prepare_postgresql(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Set up a session. A commit does not wait for the disk unless it is durable."""
    if is_pooled(connection):
        # Statements prepared on one session of the server are unknown to the next.
        connection.prepare_threshold = None
    else:
        connection.execute("SET synchronous_commit TO off")
    connection.commit()


def is_pooled(connection: Any) -> bool:
    """Return whether a pooler such as PgBouncer is between psycopg and the server.

    It may run each transaction in another session of the server: settings of a session would not
    last, and would reach transactions of other clients. A pooler invents the process id that it
    reports to psycopg.
    """
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    return bool(pid != connection.info.backend_pid)
