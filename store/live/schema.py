"""The schema of a database: which one it has, creating it, and upgrading it."""

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import StaticPool

from tokentape.recorder.escapes import visible
from tokentape.store.errors import NewerStoreError, OlderStoreError, StoreError
from tokentape.store.live.backup import back_up
from tokentape.store.live.connections import Database
from tokentape.store.live.postgres_schema import postgres_faults
from tokentape.store.live.schema_faults import Schema, is_plain_table, schema_faults, schema_of
from tokentape.store.live.schema_version import (
    VERSION_TABLE,
    has_own_version,
    is_shared,
    is_store,
    move_to_own_table,
    name_of_another,
    tables_of,
    version_of,
    version_table_of,
)
from tokentape.store.live.sqlite_access import use_wal
from tokentape.store.live.tables import TRIGGERS, metadata
from tokentape.store.location import shown

MIGRATIONS = Path(str(resources.files("tokentape.migrations")))
VERSION_FOLDERS: tuple[Path, ...] = (MIGRATIONS / "versions",)
"""The folders of Alembic's revisions."""

_WAL_WAIT_S = 10.0
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
    # The name of that option before Alembic 1.16.
    config.set_main_option("version_path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
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
    connection: Connection,
    database: Database,
    url: URL,
    *,
    upgrade: bool,
    must_exist: bool = False,
) -> None:
    """Create the schema if the database has none; with `upgrade`, upgrade an older one.

    An upgrade is preceded by a backup. Raise StoreError for a database of another application that
    ours must not join, and with `must_exist` for one without our schema; OlderStoreError for an
    older schema without `upgrade`; NewerStoreError for a newer schema; StoreError for a schema
    that differs from the one that our migrations make.
    """
    where = database.where
    tables = tables_of(connection)
    if not is_store(tables):
        # A SQLite file that another process is creating is blank for a moment.
        is_being_created = not tables and connection.dialect.name == "sqlite"
        if not database.access.is_writable or (must_exist and not is_being_created):
            raise StoreError(_no_store(where, tables))
        _check_can_join(connection, where, tables)
        _create(connection)
    revision = revision_of(connection, where)
    if revision == head() and (has_own_version(tables_of(connection)) or not upgrade):
        check_schema(connection, where)
        return
    if not upgrade:
        remedy = "`tokentape db upgrade`, which makes a backup first"
        if connection.dialect.name != "sqlite":
            remedy = "pg_dump and `tokentape db upgrade --no-backup`"
        elif not database.access.is_writable:
            remedy = "`tokentape db upgrade`, after copying it to a folder that can be written to"
        raise OlderStoreError(
            f"{where} has schema {revision}, this tokentape needs schema {head()}: stop every "
            f"process that records into it and upgrade it with {remedy}"
        )
    database.check_writable()
    upgrade_schema(connection, url, backup=True)


def _no_store(where: str, tables: Collection[str]) -> str:
    if not tables:
        return f"there is no store at {where}: the database is blank"
    return f"{where} is a database of another application: it has no tokentape events"


def _check_can_join(connection: Connection, where: str, tables: Collection[str]) -> None:
    """Raise StoreError unless our tables can be created among those that are there."""
    if not tables:
        return
    if not is_shared(connection):
        raise StoreError(_no_store(where, tables))
    taken = name_of_another(connection, metadata.tables)
    if taken:
        raise StoreError(
            f"{where} is a database of another application: it has a table {taken!r}, and "
            "tokentape needs that name. Name another database, or a schema of PostgreSQL of its "
            "own with ?options=-csearch_path%3DNAME"
        )


def revision_of(connection: Connection, where: str) -> str:
    """Return the revision of a database.

    Raise StoreError for a database of another application, NewerStoreError for an unknown revision.
    """
    tables = tables_of(connection)
    if not is_store(tables):
        raise StoreError(_no_store(where, tables))
    table = version_table_of(tables)
    if connection.dialect.name == "sqlite" and not is_plain_table(connection, table):
        raise StoreError(_fault_of_schema(where, [f"{table} is not a plain table"]))
    revision = version_of(connection, _revisions())
    connection.rollback()
    if revision not in _revisions():
        raise NewerStoreError(
            f"{where} has schema {visible(revision)}, this tokentape knows up to {head()}: "
            "upgrade tokentape"
        )
    return revision


def check_schema(connection: Connection, where: str) -> None:
    """Raise StoreError unless our tables, views and triggers are those that the migrations make."""
    faults = schema_faults_now(connection)
    connection.rollback()
    if faults:
        raise StoreError(_fault_of_schema(where, faults))


def check_unchanged(connection: Connection, where: str, revision: str) -> None:
    """Raise StoreError if a database no longer has a revision of the schema, unaltered."""
    now = version_of(connection, {revision})
    if now != revision:
        raise StoreError(
            f"{where} was upgraded from schema {revision} to {visible(now)} while it was open: "
            "open it again with the newest tokentape"
        )
    check_schema(connection, where)


def schema_faults_now(connection: Connection) -> list[str]:
    """Return how a database differs from the schema that it says to have, a line each."""
    revision = version_of(connection, _revisions())
    if revision not in _revisions():
        return [f"it has schema {visible(revision)} now, this tokentape knows up to {head()}"]
    return _schema_faults_of(connection, revision)


def _fault_of_schema(where: str, faults: list[str]) -> str:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return (
        f"the schema of {where} is damaged, or another program changed it: {faults[0]}{more}. "
        "Restore a backup, or remove what the other program added"
    )


def _schema_faults_of(connection: Connection, revision: str) -> list[str]:
    """Return how a database differs from a revision of our schema, a line for each difference."""
    version_table = version_table_of(tables_of(connection))
    expected = {
        key: each
        for key, each in _expected_schema(revision, VERSION_FOLDERS).items()
        # A store of version 0.1.0 has Alembic's table, which may belong to other programs as well.
        if version_table == VERSION_TABLE or each.table != VERSION_TABLE
    }
    if connection.dialect.name == "sqlite":
        return schema_faults(connection, expected)
    relations = {
        each.name: each.kind
        for each in expected.values()
        if each.kind in ("table", "view") and not each.name.startswith("sqlite_")
    }
    triggers = [each.name for each in expected.values() if each.kind == "trigger"]
    return postgres_faults(connection, relations, triggers)


@cache
def _expected_schema(revision: str, folders: tuple[Path, ...]) -> Schema:
    """Return what the migrations in `folders` up to a revision make of a blank SQLite database."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.connect() as connection:
        _run_migrations(connection, revision)
        schema = schema_of(connection)
    engine.dispose()
    return schema


def _revisions() -> set[str]:
    return {each.revision for each in _scripts().walk_revisions()}


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
    PostgreSQL database is to be backed up (use `pg_dump`), if the schema is not the one that our
    migrations make, and if a trigger is missing after the migrations; then the database is
    unchanged.
    """
    where = shown(url)
    is_newest = revision_of(connection, where) == head()
    check_schema(connection, where)
    if is_newest and has_own_version(tables_of(connection)):
        return Upgrade(before=head(), after=head(), backup=None)
    _lock_schema(connection)
    # Another process may have upgraded it meanwhile.
    before = version_of(connection, _revisions())
    copy = back_up(url, before) if backup and before != head() else None
    move_to_own_table(connection, before, metadata.tables)
    if before != head():
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
        use_wal(connection.connection.driver_connection, wait_s=_WAL_WAIT_S)
    _lock_schema(connection)
    if not is_store(tables_of(connection)):
        _run_migrations(connection)
    connection.commit()


def _run_migrations(connection: Connection, revision: str = "head") -> None:
    """Run `alembic upgrade REVISION` with the revisions that were compiled before."""
    scripts = _scripts()
    environment = EnvironmentContext(
        alembic_config(connection),
        scripts,
        fn=lambda current, _: scripts._upgrade_revs(revision, current),
        destination_rev=revision,
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
