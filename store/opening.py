"""Open a store by its URL or path, and upgrade its schema."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

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
    """Open a live store, or sealed runs to read: a folder or a tape.

    A live store is a URL such as `sqlite:///runs.db` or `postgresql+psycopg://user@host/database`.
    A plain path is the folder, the tape or the SQLite file at that path. A live store is created
    where there is none, unless it `must_exist`. One with an older schema is brought to today's
    where `upgrade` asks for it, after a backup. Raises StoreError for anything that is not a store,
    which is left as it was.
    """
    text = os.fspath(where)
    if "://" not in text and (Path(text).is_dir() or is_zip(Path(text))):
        # It imports pyarrow.dataset, and that pandas: a database needs neither.
        from tokentape.store.sealed.reader import ParquetStore

        return ParquetStore(Path(text))
    url = database_url(text)
    is_sqlite = url.get_backend_name() == "sqlite"
    if must_exist and is_sqlite:
        _require_file(Path(url.database or ""))
    return DatabaseStore(url, upgrade=upgrade, must_exist=must_exist)


def _require_file(path: Path) -> None:
    """A store that was only begun may be an empty file: whoever records goes on with it."""
    if not path.is_file():
        raise StoreError(f"there is no store at {path}")
    if path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        raise StoreError(f"there is no store at {path}: the file is empty")


def database_url(text: str) -> URL:
    """The URL of a live store; a plain path is a SQLite file. Raises StoreError."""
    try:
        return make_url(text if "://" in text else f"sqlite:///{text}")
    except ArgumentError:
        raise StoreError(f"{text!r} is not a database URL, nor a path") from None


def current_schema(url: URL) -> str:
    """The schema of a live store, which is only looked at. Raises StoreError."""
    with connected(url) as connection:
        return revision_of(connection, url.render_as_string())


def upgrade_store(url: URL, *, backup: bool = True) -> Upgrade:
    """Bring a live store to the newest schema; see `tokentape.store.live.schema.upgrade_schema`."""
    with connected(url) as connection:
        return upgrade_schema(connection, url, backup=backup)
