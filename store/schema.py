"""What is in a database file before we touch it, and bringing it to the newest schema."""

import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from store.errors import NewerStoreError, StoreError

_WAL_ATTEMPTS = 200
_WAL_PAUSE_S = 0.05
MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def refuse_foreign_file(path: Path) -> None:
    """Raise StoreError unless the file is a SQLite database; a new or empty one may become ours.

    Only reads: a file that is not ours stays byte for byte what it was.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a database file")
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            raise StoreError(f"{path} is not a database: it has no SQLite header")
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read as a database: {error}") from None


def bring_to_head(connection: Connection, where: str) -> None:
    """Create the tables in a blank database; refuse one that is not ours or is newer than we are.

    Raises StoreError and NewerStoreError.
    """
    config = alembic_config(connection)
    head = ScriptDirectory.from_config(config).get_current_head()
    if not _tables(connection):
        _use_wal(connection)
        # Of several processes that find the file blank, one creates and the others wait for it.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if not _tables(connection):
            command.upgrade(config, "head")
        connection.commit()
    found = _tables(connection)
    if "alembic_version" not in found or "events" not in found:
        raise StoreError(f"{where} is a database of something else: it has no tokentape events")
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    connection.rollback()
    if revision != head:
        raise NewerStoreError(
            f"{where} has schema {revision}, this tokentape knows up to {head}: upgrade tokentape"
        )


def _tables(connection: Connection) -> set[str]:
    # A fresh inspector each time: one keeps what it has seen.
    return set(inspect(connection).get_table_names())


def _use_wal(connection: Connection) -> None:
    """Stays in the file for good. The switch needs the file to itself, and no timeout waits."""
    for _ in range(_WAL_ATTEMPTS):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            break
        except OperationalError:
            connection.rollback()
            time.sleep(_WAL_PAUSE_S)
    connection.commit()
