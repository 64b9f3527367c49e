"""Open a store by its URL or path, and upgrade its schema."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tokentape.recorder.paths import expand_path
from tokentape.store.errors import StoreError
from tokentape.store.live.connections import connected
from tokentape.store.live.database import DatabaseStore
from tokentape.store.live.schema import Upgrade, revision_of, upgrade_schema
from tokentape.store.sealed.tape import is_zip

if TYPE_CHECKING:
    from tokentape.store.sealed.reader import ParquetStore

DEFAULT_URL = "sqlite:///tokentape.db"


def open_store(
    where: str | os.PathLike[str] = DEFAULT_URL, *, must_exist: bool = False, upgrade: bool = False
) -> "DatabaseStore | ParquetStore":
    """Open a live store, or a Parquet folder or tape of sealed runs for reading.

    `where` is a database URL such as `sqlite:///runs.db` or
    `postgresql+psycopg://user@host/database`, or the path of a SQLite file, a folder or a tape;
    `~` in it is the home folder.
    A live store is created if it does not exist, unless `must_exist`. With `upgrade`, an older
    schema is upgraded to the newest after a backup.

    Raise OlderStoreError for an older schema without `upgrade`, NewerStoreError for a newer one,
    and StoreError for anything else that is not a store; it is left unchanged.

    Example:
        >>> import tokentape as tt
        >>> with tt.open_store(tmp_path / "runs.db") as opened:
        ...     opened.summaries()
        []
    """
    text = os.fspath(where)
    if "://" not in text:
        text = str(expand_path(text)) if text else text
    if "://" not in text and (Path(text).is_dir() or is_zip(Path(text))):
        # It imports pyarrow.dataset, and that pandas: a database needs neither.
        from tokentape.store.sealed.reader import ParquetStore

        return ParquetStore(Path(text))
    url = database_url(text)
    is_sqlite = url.get_backend_name() == "sqlite"
    if must_exist and is_sqlite:
        _check_exists(Path(url.database or ""))
    return DatabaseStore(url, upgrade=upgrade, must_exist=must_exist)


def _check_exists(path: Path) -> None:
    """Raise StoreError unless a file exists and has content.

    A store whose tables another process is creating may be an empty file with a log.
    """
    if not path.is_file():
        raise StoreError(
            f"there is no store at {path}: name another one, or record a run into this one first"
        )
    if path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        raise StoreError(f"there is no store at {path}: the file is empty")


def database_url(text: str) -> URL:
    """Return the URL of a live store; a path is that of a SQLite file. Raise StoreError."""
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except ArgumentError:
        raise StoreError(f"{text!r} is neither a database URL nor a path") from None
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(expand_path(url.database)))
    return url


def current_schema(url: URL) -> str:
    """Return the schema revision of a live store, without changing it.

    Raise StoreError if the database cannot be read or is not a store.
    """
    with connected(url) as connection:
        return revision_of(connection, url.render_as_string())


def upgrade_store(url: URL, *, backup: bool = True) -> Upgrade:
    """Upgrade a live store; see `tokentape.store.live.schema.upgrade_schema`."""
    with connected(url) as connection:
        return upgrade_schema(connection, url, backup=backup)
