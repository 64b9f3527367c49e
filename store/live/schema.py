"""The schema of a database: which one it has, creating it, and upgrading it."""

import os
import threading
import time
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from tokentape.store.errors import NewerStoreError, OlderStoreError, StoreError
from tokentape.store.live.backup import back_up
from tokentape.store.live.tables import TRIGGERS

MIGRATIONS = Path(str(resources.files("tokentape.migrations")))
VERSION_FOLDERS: tuple[Path, ...] = (MIGRATIONS / "versions",)
"""The folders of Alembic's revisions."""

_WAL_ATTEMPTS = 200
_WAL_PAUSE_S = 0.05
_SCHEMA_LOCK = 0x746F6B656E746170
"""The key, "tokentap", of the advisory lock that a change of a PostgreSQL schema holds."""

# Alembic keeps the connection of a running migration where all threads of a process see it.
_MIGRATING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """The result of an upgrade: the schema before it and after it."""

    before: str
    after: str
    backup: Path | None
    """The copy of the file that was made first; None if the schema was the newest already, if no
    backup was requested, and in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A version of the schema."""

    revision: str
    summary: str
    is_current: bool
    """Whether the store has this version."""


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for running migrations on a connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    folders = os.pathsep.join(map(str, VERSION_FOLDERS))
    config.set_main_option("version_locations", folders.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@cache
def _scripts() -> ScriptDirectory:
    """Return the revisions, compiled once a process: Alembic alone would do so for each store."""
    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    """Return the newest revision."""
    newest = _scripts().get_current_head()
    assert newest is not None
    return newest


def bring_to_head(
    connection: Connection, url: URL, *, upgrade: bool, must_exist: bool = False
) -> None:
    """Create the schema in a blank database; with `upgrade`, upgrade an older one after a backup.

    Raise StoreError for a database of another application, and with `must_exist` for a blank one;
    OlderStoreError for an older schema without `upgrade`; NewerStoreError for a newer schema.
    """
    where = url.render_as_string()
    # A SQLite file that another process is creating is blank for a moment.
    if not _tables(connection):
        if must_exist and connection.dialect.name != "sqlite":
            raise StoreError(f"there is no store at {where}: the database is blank")
        _create(connection)
    revision = revision_of(connection, where)
    if revision == head():
        return
    if not upgrade:
        remedy = "`tokentape db upgrade`, which makes a backup first"
        if connection.dialect.name != "sqlite":
            remedy = "pg_dump and `tokentape db upgrade --no-backup`"
        raise OlderStoreError(
            f"{where} has schema {revision}, this tokentape needs schema {head()}: stop every "
            f"process that records into it and upgrade it with {remedy}"
        )
    upgrade_schema(connection, url, backup=True)


def revision_of(connection: Connection, where: str) -> str:
    """Return the revision of a database.

    Raise StoreError for a database of another application, NewerStoreError for an unknown revision.
    """
    found = _tables(connection)
    if "alembic_version" not in found or "events" not in found:
        raise StoreError(
            f"{where} is a database of another application: it has no tokentape events"
        )
    revision = _version(connection)
    connection.rollback()
    known = {each.revision for each in _scripts().walk_revisions()}
    if revision not in known:
        raise NewerStoreError(
            f"{where} has schema {revision}, this tokentape knows up to {head()}: upgrade tokentape"
        )
    return revision


def _version(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())


def history(current: str) -> list[Revision]:
    """Return every revision, the oldest first; `current` is the one that a store has."""
    return [
        Revision(
            revision=each.revision,
            summary=each.doc.partition("\n")[0],
            is_current=each.revision == current,
        )
        for each in reversed(list(_scripts().walk_revisions()))
    ]


def upgrade_schema(connection: Connection, url: URL, *, backup: bool) -> Upgrade:
    """Upgrade a database to the newest schema in one transaction.

    With `backup`, a SQLite file is copied first. Raise StoreError if the backup fails, if a
    PostgreSQL database is to be backed up (use `pg_dump`), and if a trigger is missing after the
    migrations; then the database is unchanged.
    """
    where = url.render_as_string()
    if revision_of(connection, where) == head():
        return Upgrade(before=head(), after=head(), backup=None)
    _lock_schema(connection)
    # Another process may have upgraded it meanwhile.
    before = _version(connection)
    if before == head():
        connection.rollback()
        return Upgrade(before=before, after=before, backup=None)
    copy = back_up(url, before) if backup else None
    _run_migrations(connection)
    missing = TRIGGERS - triggers_of(connection)
    if missing:
        connection.rollback()
        raise StoreError(f"the upgrade of {where} was undone: it lost {', '.join(sorted(missing))}")
    connection.commit()
    return Upgrade(before=before, after=head(), backup=copy)


def triggers_of(connection: Connection) -> set[str]:
    """Return the names of the triggers in a database."""
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if connection.dialect.name == "sqlite"
        else "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
        "WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace"
    )
    return set(connection.execute(text(query)).scalars())


def _create(connection: Connection) -> None:
    """Create the schema, unless another process has done so while this one waited for the lock."""
    if connection.dialect.name == "sqlite":
        _use_wal(connection)
    _lock_schema(connection)
    if not _tables(connection):
        _run_migrations(connection)
    connection.commit()


def _run_migrations(connection: Connection) -> None:
    """Run `alembic upgrade head` with the revisions that were compiled before."""
    scripts = _scripts()
    environment = EnvironmentContext(
        alembic_config(connection),
        scripts,
        fn=lambda revision, _: scripts._upgrade_revs("head", revision),
        destination_rev="head",
    )
    with _MIGRATING, environment:
        scripts.run_env()


def _lock_schema(connection: Connection) -> None:
    """Keep other processes from creating or upgrading the schema until the transaction ends.

    They can still read.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})


def _tables(connection: Connection) -> set[str]:
    # A new inspector each time: one caches the names that it has seen.
    return set(inspect(connection).get_table_names())


def _use_wal(connection: Connection) -> None:
    """Switch the file to a write-ahead log, for good.

    The switch needs the file for itself, and SQLite's busy timeout does not wait for that.
    """
    for _ in range(_WAL_ATTEMPTS):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            break
        except OperationalError:
            connection.rollback()
            time.sleep(_WAL_PAUSE_S)
    connection.commit()
