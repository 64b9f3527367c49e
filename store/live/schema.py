"""What is in a database before we touch it, and bringing it to the newest schema."""

import sqlite3
import struct
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from tokentape.recorder.atomic_write import atomic_write
from tokentape.store.errors import NewerStoreError, OlderStoreError, StoreError
from tokentape.store.live.tables import TRIGGERS

_WAL_ATTEMPTS = 200
_WAL_PAUSE_S = 0.05
_LOG_HEADER = struct.Struct(">8I")
_LOG_MAGIC = 0x377F0682
_LOG_LOOKS = 5
_LOG_PAUSE_S = 0.02
_SCHEMA_LOCK = 0x746F6B656E746170  # "tokentap": who changes the schema of a PostgreSQL holds it
# Alembic keeps what a migration runs on where all threads of a process see it.
_MIGRATING = threading.Lock()
MIGRATIONS = Path(str(resources.files("tokentape.migrations")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """`backup` is the copy that was made before, None where there was nothing to keep."""

    before: str
    after: str
    backup: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A version of the schema, and what it brought."""

    revision: str
    summary: str
    is_current: bool


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@cache
def _scripts() -> ScriptDirectory:
    """Read once a process: alembic compiles every migration anew each time, for each store."""
    return ScriptDirectory.from_config(alembic_config())


def head() -> str:
    newest = _scripts().get_current_head()
    assert newest is not None
    return newest


def check_own_file(path: Path) -> None:
    """Raise StoreError unless the file is a SQLite database; a new or empty one may become ours.

    Only reads: a file that is not ours stays byte for byte what it was.
    """
    try:
        if path.is_dir():
            raise StoreError(f"{path} is a folder, not a database file")
        _refuse_lost_log(path)
        if not path.exists() or path.stat().st_size == 0:
            return
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\x00":
                raise StoreError(f"{path} is not a database: it has no SQLite header")
        connection = sqlite3.connect(path)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            connection.close()
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from None
    except sqlite3.OperationalError as error:
        # The file itself may be sound.
        raise StoreError(
            f"cannot open {path}: {error}. Where its folder cannot be written to, copy it to one "
            "that can: SQLite keeps its log there, even to read"
        ) from None
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # SQLite quotes what it cannot read, which need not be text.
        raise StoreError(f"{path} cannot be read as a database: {error}") from None


def _refuse_lost_log(path: Path) -> None:
    """SQLite would go on without the log, as if its events had never been."""
    for _ in range(_LOG_LOOKS):
        fault = _fault_of_log(path)
        if not fault:
            return
        # The last process to close a store removes its log and index, one after the other.
        time.sleep(_LOG_PAUSE_S)
    raise StoreError(fault)


def _fault_of_log(path: Path) -> str:
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    try:
        with log.open("rb") as file:
            header = file.read(_LOG_HEADER.size)
    except FileNotFoundError:
        if not (index.exists() and path.exists()):
            return ""
        return (
            f"{log} is missing: {path} was being written, and its newest events are in there. Put "
            f"it back, or remove {index.name} to go on with what is left"
        )
    if header and not _is_log_header(header):
        return (
            f"{log} is damaged: the newest events of {path} are in there. Put it back, or remove "
            "it to go on with what is left"
        )
    if header and path.exists() and path.stat().st_size == 0:
        return f"{path} is empty, and {log} is not: put the file back that the log belongs to"
    return ""


def _is_log_header(header: bytes) -> bool:
    """Whether SQLite will read the log behind it: https://sqlite.org/fileformat2.html#walformat."""
    if len(header) < _LOG_HEADER.size:
        return False
    magic, *_, recorded_a, recorded_b = _LOG_HEADER.unpack(header)
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    a = b = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        a = (a + first + b) & 0xFFFFFFFF
        b = (b + second + a) & 0xFFFFFFFF
    return magic & ~1 == _LOG_MAGIC and (a, b) == (recorded_a, recorded_b)


def bring_to_head(
    connection: Connection, url: URL, *, upgrade: bool, must_exist: bool = False
) -> None:
    """Create the tables in a blank database, or upgrade an older one where that is asked for.

    Raises StoreError for a database that is not ours, or is blank though it `must_exist`,
    OlderStoreError for one that is to be upgraded first, and NewerStoreError for one that is newer
    than we are.
    """
    where = url.render_as_string()
    # A SQLite file that another process has begun is blank for a moment.
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
            f"{where} has schema {revision}, this tokentape keeps schema {head()}: stop those who "
            f"record into it and upgrade it with {remedy}"
        )
    upgrade_schema(connection, url, backup=True)


def revision_of(connection: Connection, where: str) -> str:
    """The schema that a database has. Raises as `bring_to_head` does."""
    found = _tables(connection)
    if "alembic_version" not in found or "events" not in found:
        raise StoreError(f"{where} is a database of something else: it has no tokentape events")
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
    """Every version of the schema, the oldest first."""
    return [
        Revision(
            revision=each.revision,
            summary=each.doc.partition("\n")[0],
            is_current=each.revision == current,
        )
        for each in reversed(list(_scripts().walk_revisions()))
    ]


def upgrade_schema(connection: Connection, url: URL, *, backup: bool) -> Upgrade:
    """Bring an older database to the newest schema, all of it or nothing.

    A SQLite file is copied first, beside itself. Raises StoreError for a PostgreSQL database where
    a backup is asked for: that is made with `pg_dump`.
    """
    where = url.render_as_string()
    if revision_of(connection, where) == head():
        return Upgrade(before=head(), after=head(), backup=None)
    _take_turns(connection)
    before = _version(connection)
    if before == head():
        connection.rollback()
        return Upgrade(before=before, after=before, backup=None)
    copy = _back_up(url, before) if backup else None
    _run_migrations(connection)
    missing = TRIGGERS - triggers_of(connection)
    if missing:
        connection.rollback()
        raise StoreError(f"the upgrade of {where} lost {', '.join(sorted(missing))}: it is undone")
    connection.commit()
    return Upgrade(before=before, after=head(), backup=copy)


def triggers_of(connection: Connection) -> set[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if connection.dialect.name == "sqlite"
        else "SELECT tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
        "WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace"
    )
    return set(connection.execute(text(query)).scalars())


def _create(connection: Connection) -> None:
    """Of several processes that find the database blank, one creates, the others wait for it."""
    if connection.dialect.name == "sqlite":
        _use_wal(connection)
    _take_turns(connection)
    if not _tables(connection):
        _run_migrations(connection)
    connection.commit()


def _run_migrations(connection: Connection) -> None:
    """What `alembic upgrade head` does, with migrations that were read once."""
    scripts = _scripts()
    environment = EnvironmentContext(
        alembic_config(connection),
        scripts,
        fn=lambda revision, _: scripts._upgrade_revs("head", revision),
        destination_rev="head",
    )
    with _MIGRATING, environment:
        scripts.run_env()


def _take_turns(connection: Connection) -> None:
    """Until the transaction ends, nobody else creates or upgrades here; reading goes on."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})


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


def _back_up(url: URL, revision: str) -> Path | None:
    if url.get_backend_name() != "sqlite":
        raise StoreError(
            f"{url.render_as_string()} cannot be copied from here: make a backup with pg_dump, "
            "then upgrade with --no-backup"
        )
    if not url.database or url.database == ":memory:":
        return None
    path = Path(url.database)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    copy = path.with_name(f"{path.name}.{revision}.{stamp}.backup")
    try:
        with atomic_write(copy, durable=True) as tmp_path:
            answer = _copied(path, tmp_path)
            if answer != "ok":
                raise StoreError(
                    f"{path} is damaged ({answer}): there is no backup, and no upgrade"
                )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot make the backup {copy}: {error}; nothing was changed") from None
    return copy


def _copied(path: Path, copy: Path) -> str:
    """Copy a database; return SQLite's verdict on the copy, `ok` where it is sound."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        (answer,) = target.execute("PRAGMA quick_check(1)").fetchone()
    return str(answer)
