"""How a SQLite file is opened: for writing if possible, else for reading."""

import itertools
import os
import sqlite3
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from tokentape.store.errors import StoreError
from tokentape.store.live.sqlite_file import check_header, check_log, real_path, unread_log

_WAL_PAUSE_S = 0.02
_SCHEMA_STEPS_MAX = 100
"""Thousands of steps of SQLite's virtual machine: about ten read one entry of the schema."""
_CANNOT_OPEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


class Access(StrEnum):
    """The access to a SQLite file. The values are parameters of SQLite's URIs."""

    CREATE = "mode=rwc"
    WRITE = "mode=rw"
    READ = "mode=ro"
    """SQLite still creates the index of the write-ahead log in the folder of the file."""
    IMMUTABLE = "mode=ro&immutable=1"
    """Nothing is locked, and no log is read: for a medium on which nobody writes."""

    @property
    def is_writable(self) -> bool:
        return self in (Access.CREATE, Access.WRITE)


def connect(path: Path, access: Access) -> sqlite3.Connection:
    """Return a connection to exactly that file, whatever characters its name has."""
    uri = path.absolute().as_uri()
    return sqlite3.connect(f"{uri}?{access.value}", uri=True, check_same_thread=False)


def usable_access(url: URL) -> Access:
    """Return the access that a file allows, after checking that it is a readable database.

    A file that does not exist can be created. Raise StoreError for a file that is not a SQLite
    database, for a damaged one, and for one that can only be read without its newest events.
    """
    path = Path(str(url.database))
    failed: sqlite3.OperationalError | None = None
    for access in _candidates(path, url):
        try:
            _check(path, access)
        except sqlite3.OperationalError as error:
            failed = failed or error
            if error.sqlite_errorcode & 0xFF not in _CANNOT_OPEN:
                break
        else:
            return access
    # The file itself may be sound.
    raise StoreError(f"cannot open {path}: {failed}") from None


def _candidates(path: Path, url: URL) -> list[Access]:
    """Return the kinds of access to try, the best first."""
    if "immutable" in url.query:
        return [Access.IMMUTABLE]
    mode = url.query.get("mode")
    reading = [Access.READ, Access.IMMUTABLE]
    if mode == "ro":
        return reading
    real = real_path(path)
    if not real.exists():
        return [Access.WRITE if mode == "rw" else Access.CREATE]
    # SQLite itself would open a file that it cannot write to, and fail at the first event.
    if os.access(real, os.W_OK) and os.access(real.parent, os.W_OK):
        return [Access.WRITE if mode == "rw" else Access.CREATE, *reading]
    return reading


def _check(path: Path, access: Access) -> None:
    """Raise StoreError for a file that is no sound database, OperationalError if it is locked."""
    try:
        check_log(path)
        if not check_header(path):
            return
        if access is Access.IMMUTABLE:
            _check_no_log(path)
        with closing(connect(path, access)) as connection:
            _load_schema(connection, path)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from None
    except sqlite3.OperationalError:
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # SQLite quotes bytes that it cannot read, which need not be text.
        raise StoreError(f"{path} cannot be read as a database: {error}") from None


def _load_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Have SQLite read its schema. Raise StoreError if that has too many tables, views and so on.

    The time that SQLite takes grows with the square of their number.
    """
    calls = itertools.count(1)
    connection.set_progress_handler(lambda: next(calls) > _SCHEMA_STEPS_MAX, 1_000)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise StoreError(
            f"{path} has more than about 10,000 tables, views, indexes and triggers: name another "
            "database"
        ) from None


def _check_no_log(path: Path) -> None:
    """Raise StoreError if a file has a log, which a reader that locks nothing would not read."""
    log = unread_log(path)
    if log:
        raise StoreError(
            f"{path} cannot be read in this folder: its newest events are in {log}, and SQLite "
            "needs to write there to read them. Copy both files to a folder that can be written "
            "to, and open the copy"
        )


def use_wal(connection: Any, *, wait_s: float) -> str:
    """Switch a file to a write-ahead log, for good; return why that failed, or "".

    With any other journal, a reader stops a writer. The switch needs the file for itself.
    `connection` is one of the driver, outside a transaction. A file system that cannot have such a
    log, as some that are shared by network, is no failure.
    """
    if _journal(connection) == "wal":
        return ""
    (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout=0")
    until = time.monotonic() + wait_s
    try:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                return ""
            except sqlite3.OperationalError as error:
                if time.monotonic() >= until:
                    return str(error)
            time.sleep(_WAL_PAUSE_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout_ms}")


def _journal(connection: Any) -> str:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)
