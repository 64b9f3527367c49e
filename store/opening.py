"""Open a store by its URL or path, and upgrade its schema."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL

from tokentape.recorder.foreign_files import foreign_file
from tokentape.recorder.listed_keywords import suggests_keywords
from tokentape.store.default_store import DEFAULT_URL
from tokentape.store.errors import StoreError
from tokentape.store.live.connections import connected
from tokentape.store.live.database import DatabaseStore
from tokentape.store.live.postgres_store import PostgresStore
from tokentape.store.live.schema import Upgrade, revision_of, upgrade_schema
from tokentape.store.live.sqlite_file import real_path
from tokentape.store.location import is_in_memory, parse_location, shown, sqlite_url
from tokentape.store.objects.urls import ObjectUrl
from tokentape.store.sealed.tape import is_zip

if TYPE_CHECKING:
    from tokentape.store.sealed.reader import ParquetStore

_RECORD_ELSEWHERE = (
    "an object store has only copies of runs. Record into a database, --store sqlite:///runs.db, "
    "and copy the runs there with `tokentape export` or `tokentape pack`"
)


@suggests_keywords
def open_store(
    where: str | os.PathLike[str] = DEFAULT_URL, *, must_exist: bool = False, upgrade: bool = False
) -> "DatabaseStore | ParquetStore":
    """Open a live store, or a Parquet folder or tape of sealed runs for reading.

    `where` is a database URL such as `sqlite:///runs.db` or
    `postgresql+psycopg://user@host/database`, or the path of a SQLite file, a folder or a tape, or
    the URL of a folder or tape in an object store that fsspec reads: `s3://bucket/runs`. A path
    means exactly that file, whatever characters it has; in a URL, `%3F` is a question mark,
    and `?mode=ro` opens a file only for reading. A leading `~` is the home folder. A live store is
    created if it does not exist, unless `must_exist`. A file that cannot be written to is opened
    for reading: every write raises StoreError. With `upgrade`, an older schema is upgraded to the
    newest after a backup.

    Raise OlderStoreError for an older schema without `upgrade`, NewerStoreError for a newer one,
    and StoreError for anything else that is not a store; it is left unchanged.

    Example:
        >>> import tokentape as tt
        >>> with tt.open_store(tmp_path / "runs.db") as opened:
        ...     opened.summaries()
        []
    """
    place = parse_location(where)
    if isinstance(place, ObjectUrl):
        return _open_object(place)
    if isinstance(place, Path):
        if _is_sealed(place):
            # It imports pyarrow.dataset, and that pandas: a database needs neither.
            from tokentape.store.sealed.reader import ParquetStore

            return ParquetStore(place)
        place = sqlite_url(place)
    if place.get_backend_name() == "postgresql":
        return PostgresStore(place, upgrade=upgrade, must_exist=must_exist)
    is_file = place.get_backend_name() == "sqlite" and not is_in_memory(place)
    if is_file and (must_exist or place.query.get("mode") in ("ro", "rw")):
        _check_exists(Path(str(place.database)))
    return DatabaseStore(place, upgrade=upgrade, must_exist=must_exist)


def _open_object(url: ObjectUrl) -> "ParquetStore":
    """Open a folder or a tape in an object store. Raise StoreError for anything else there."""
    from tokentape.store.objects.object_path import ObjectPath
    from tokentape.store.sealed.reader import ParquetStore

    place = ObjectPath.connect(url)
    if place.kind() == "missing":
        raise StoreError(f"there is no store at {place}: {_RECORD_ELSEWHERE}")
    return ParquetStore(place)


def _is_sealed(path: Path) -> bool:
    try:
        return path.is_dir() or is_zip(path)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from None


def _check_exists(path: Path) -> None:
    """Raise StoreError unless a file exists and has content.

    A store whose tables another process is creating may be an empty file with a log.
    """
    if not path.exists():
        fault = foreign_file(path)
        if fault:
            raise StoreError(f"{path} {fault}")
        raise StoreError(
            f"there is no store at {path}: name another one, or record a run into this one first"
        )
    log = real_path(path).with_name(f"{real_path(path).name}-wal")
    if path.is_file() and path.stat().st_size == 0 and not log.exists():
        raise StoreError(f"there is no store at {path}: the file is empty")


def database_url(where: str | os.PathLike[str]) -> URL:
    """Return the URL of a live store; a path is that of a SQLite file.

    Raise StoreError for the URL of an object store, and for one that names no store.
    """
    place = parse_location(where)
    if isinstance(place, ObjectUrl):
        raise StoreError(f"{place} is no database: {_RECORD_ELSEWHERE}")
    return sqlite_url(place) if isinstance(place, Path) else place


def current_schema(url: URL) -> str:
    """Return the schema revision of a live store, without changing it.

    Raise StoreError if the database cannot be read or is not a store.
    """
    with connected(url) as connection:
        return revision_of(connection, shown(url))


def upgrade_store(url: URL, *, backup: bool = True) -> Upgrade:
    """Upgrade a live store; see `tokentape.store.live.schema.upgrade_schema`."""
    with connected(url) as connection:
        return upgrade_schema(connection, url, backup=backup)
